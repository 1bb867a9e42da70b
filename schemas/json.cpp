#include "schemas/json.h"

#include <rapidjson/reader.h>
#include <rapidjson/stream.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <charconv>
#include <cstring>
#include <system_error>
#include <tuple>
#include <utility>

namespace tidemark::schemas::json {
namespace {

constexpr std::size_t kMaxDepth = 256;
constexpr std::size_t kMaxPointerBytes = 512;

/// Objects up to this size compare their names pairwise; beyond, sorting is cheaper.
constexpr std::size_t kMaxPairwise = 16;

/// What may be touched past the text's end: RapidJSON's UTF-8 validation steps up to three bytes past the terminating
/// NUL when the text stops inside a sequence, and Utf8 below looks at eight bytes at once.
constexpr std::size_t kPadding = 8;

/// What a reader keeps between texts: a batch of 10,000 increments fits, a rare giant is given back.
constexpr std::size_t kKeptBytes = std::size_t{1} << 20;
constexpr std::size_t kKeptNodes = std::size_t{1} << 16;

// RAPIDJSON_SSE2 and RAPIDJSON_SSE42 stay undefined: where the encoding is validated they speed up white space only,
// and where it is not, 1.1.0's vectorised scan takes raw U+001A to U+001F in strings for ordinary characters.
constexpr unsigned kFlags = rapidjson::kParseInsituFlag | rapidjson::kParseIterativeFlag |
                            rapidjson::kParseNumbersAsStringsFlag | rapidjson::kParseValidateEncodingFlag;

/// Whether the eight bytes there are ASCII characters that stand for themselves in a JSON string.
bool eight_plain(const char* at) noexcept {
    constexpr std::uint64_t kEach = 0x0101010101010101;
    std::uint64_t bytes = 0;
    std::memcpy(&bytes, at, sizeof bytes);
    const std::uint64_t quotes = bytes ^ kEach * '"';
    const std::uint64_t backslashes = bytes ^ kEach * '\\';
    const std::uint64_t below = (bytes - kEach * 0x20) | (quotes - kEach) | (backslashes - kEach);
    return ((below | bytes) & kEach * 0x80) == 0;
}

/// RapidJSON's UTF-8 with a quick way through runs of plain ASCII, which it would validate and copy byte by byte.
struct Utf8 : rapidjson::UTF8<> {
    using Stream = rapidjson::GenericInsituStringStream<Utf8>;
    using rapidjson::UTF8<>::Validate;

    /// Validates and copies one character, as RapidJSON asks, or a run of plain ones.
    static bool Validate(Stream& in, Stream& out) {
        assert(&in == &out);
        const char* const begin = in.src_;
        const char* end = begin;
        while (eight_plain(end))
            end += 8;
        while (is_plain(*end))
            ++end;
        if (end == begin) return rapidjson::UTF8<>::Validate(in, out);
        const auto size = static_cast<std::size_t>(end - begin);
        if (in.dst_ != in.src_) std::memmove(in.dst_, begin, size);
        in.dst_ += size;
        in.src_ += size;
        return true;
    }

private:
    static bool is_plain(char c) noexcept {
        const auto byte = static_cast<unsigned char>(c);
        return byte >= 0x20 && byte < 0x80 && c != '"' && c != '\\';
    }
};

std::string_view describe(rapidjson::ParseErrorCode code) noexcept {
    switch (code) {
        case rapidjson::kParseErrorDocumentEmpty:
            return "nothing in it";
        case rapidjson::kParseErrorDocumentRootNotSingular:
            return "something after the value";
        case rapidjson::kParseErrorObjectMissName:
            return "no member name";
        case rapidjson::kParseErrorObjectMissColon:
            return "no colon after a member name";
        case rapidjson::kParseErrorObjectMissCommaOrCurlyBracket:
            return "no comma or closing brace after a member";
        case rapidjson::kParseErrorArrayMissCommaOrSquareBracket:
            return "no comma or closing bracket after an element";
        case rapidjson::kParseErrorStringUnicodeEscapeInvalidHex:
            return "a \\u escape without four hex digits";
        case rapidjson::kParseErrorStringUnicodeSurrogateInvalid:
            return "a lone surrogate";
        case rapidjson::kParseErrorStringEscapeInvalid:
            return "an unknown escape";
        case rapidjson::kParseErrorStringMissQuotationMark:
            return "a string without end";
        case rapidjson::kParseErrorStringInvalidEncoding:
            return "broken UTF-8";
        case rapidjson::kParseErrorNumberTooBig:
            return "a number beyond the range of a double";
        case rapidjson::kParseErrorNumberMissFraction:
            return "no digit after a decimal point";
        case rapidjson::kParseErrorNumberMissExponent:
            return "no digit in an exponent";
        default:
            return "no value";
    }
}

std::string describe(rapidjson::ParseErrorCode code, std::size_t offset, std::string_view text) {
    std::string_view what = describe(code);
    if (offset < text.size() && text[offset] == '\0') {
        what = "a NUL byte";
    } else if (code == rapidjson::kParseErrorStringEscapeInvalid && static_cast<unsigned char>(text[offset]) < 0x20) {
        what = "a control character that is not escaped";
    } else if (text.starts_with("\xEF\xBB\xBF")) {
        what = "a byte order mark";
    }
    return "is not JSON: " + std::string(what) + " at byte " + std::to_string(offset);
}

/// False, and nothing appended, when the name must not be sent back as part of a pointer.
bool append_child(std::string& pointer, std::string_view name) {
    if (pointer.size() + 1 + name.size() > kMaxPointerBytes || !is_utf8(name)) return false;
    pointer.append(1, '/');
    for (const char c : name) {
        if (c == '~') {
            pointer.append("~0");
        } else if (c == '/') {
            pointer.append("~1");
        } else {
            pointer.append(1, c);
        }
    }
    return true;
}

/// Receives RapidJSON's events in order, writes the tape and watches the limits.
class TapeWriter : public rapidjson::BaseReaderHandler<Utf8, TapeWriter> {
public:
    void start(std::string_view text, const Limits& limits) {
        limits_ = limits;
        has_escapes_ = text.find('\\') != std::string_view::npos;
        if (tape_.capacity() > kKeptNodes) tape_ = std::vector<Node>();
        if (names_.capacity() > kKeptNodes) names_ = std::vector<Name>();
        tape_.clear();
        open_.clear();
        violations_.clear();
    }

    [[nodiscard]] const std::vector<Node>& tape() const noexcept { return tape_; }
    [[nodiscard]] bool flawless() const noexcept { return violations_.empty(); }
    Violations take_violations() { return std::move(violations_); }

    void violate(std::string pointer, std::string detail) {
        if (violations_.size() < kMaxViolations) violations_.push_back({std::move(pointer), std::move(detail)});
    }

    bool Null() { return add(Kind::null, {}); }
    bool Bool(bool value) { return add(Kind::boolean, value ? "true" : "false"); }

    bool RawNumber(const char* begin, rapidjson::SizeType size, bool /*copy*/) {
        add(Kind::number, {begin, size});
        if (limits_.max_number_bytes != 0 && size > limits_.max_number_bytes) {
            violate(pointer(open_.size()),
                    "must not be a number of more than " + std::to_string(limits_.max_number_bytes) + " characters");
        }
        return true;
    }

    bool String(const char* begin, rapidjson::SizeType size, bool /*copy*/) {
        const std::string_view text(begin, size);
        add(Kind::string, text);
        check_characters(text, open_.size(), "must not hold ");
        return true;
    }

    bool Key(const char* begin, rapidjson::SizeType size, bool /*copy*/) {
        name_ = {begin, size};
        check_characters(name_, open_.size() - 1, "must not have a member whose name holds ");
        return true;
    }

    bool StartObject() { return open(Kind::object); }
    bool StartArray() { return open(Kind::array); }

    bool EndObject(rapidjson::SizeType size) {
        close(size);
        return true;
    }

    bool EndArray(rapidjson::SizeType size) {
        close(size);
        return true;
    }

private:
    struct Open {
        std::uint32_t node;
        std::uint32_t last_child;
        std::uint32_t size;
    };

    struct Name {
        std::string_view text;
        std::uint32_t place;
    };

    bool add(Kind kind, std::string_view text) {
        const auto index = static_cast<std::uint32_t>(tape_.size());
        auto& node = tape_.emplace_back();
        node.text = text;
        node.next = index + 1;
        node.kind = kind;
        if (open_.empty()) return true;
        auto& parent = open_.back();
        parent.last_child = index;
        ++parent.size;
        if (tape_[parent.node].kind != Kind::object) return true;
        node.name = name_;
        if (limits_.max_members != 0 && parent.size == limits_.max_members + 1) {
            violate(pointer(open_.size() - 1),
                    "must not have more than " + std::to_string(limits_.max_members) + " members");
        }
        return true;
    }

    bool open(Kind kind) {
        add(kind, {});
        if (open_.size() == limits_.max_depth) {
            violate(pointer(open_.size()), "is nested deeper than " + std::to_string(limits_.max_depth));
            return false;
        }
        open_.push_back({static_cast<std::uint32_t>(tape_.size() - 1), 0, 0});
        return true;
    }

    void close(rapidjson::SizeType size) {
        const auto index = open_.back().node;
        open_.pop_back();
        tape_[index].next = static_cast<std::uint32_t>(tape_.size());
        tape_[index].size = size;
        if (tape_[index].kind == Kind::object && size > 1) check_names(Value(&tape_, index));
    }

    /// Only an escape can write what is looked for: raw bytes were validated by RapidJSON, which lets a lone \uDC00
    /// pass.
    void check_characters(std::string_view text, std::size_t levels, std::string_view wish) {
        if (!has_escapes_) return;
        if (!limits_.allow_nul && text.find('\0') != std::string_view::npos) {
            violate(pointer(levels), std::string(wish) + "U+0000");
        }
        if (!is_utf8(text)) violate(pointer(levels), std::string(wish) + "a lone surrogate");
    }

    /// Called when the object has just been closed, so that it is what pointer(open_.size()) points at.
    void check_names(Value object) {
        names_.clear();
        std::uint32_t place = 0;
        for (const auto member : object)
            names_.push_back({member.name(), place++});
        if (names_.size() <= kMaxPairwise) {
            for (auto later = names_.begin() + 1; later != names_.end(); ++later) {
                const auto same = [later](const Name& earlier) { return earlier.text == later->text; };
                if (std::any_of(names_.begin(), later, same)) violate_duplicate(later->text);
            }
            return;
        }
        std::sort(names_.begin(), names_.end(), [](const Name& left, const Name& right) {
            return std::tie(left.text, left.place) < std::tie(right.text, right.place);
        });
        for (auto later = names_.begin() + 1; later != names_.end(); ++later) {
            if ((later - 1)->text == later->text) violate_duplicate(later->text);
        }
    }

    void violate_duplicate(std::string_view name) {
        violate(child_pointer(pointer(open_.size()), name), "duplicate member");
    }

    /// The way through the outermost `levels` open values, each by its newest child: all of them lead to the newest
    /// value, one fewer to the value that holds it. It ends early at a name that must not be sent back.
    [[nodiscard]] std::string pointer(std::size_t levels) const {
        std::string way;
        for (std::size_t i = 0; i < levels; ++i) {
            if (tape_[open_[i].node].kind == Kind::array) {
                way.append(1, '/').append(std::to_string(open_[i].size - 1));
            } else if (!append_child(way, tape_[open_[i].last_child].name)) {
                break;
            }
        }
        return way;
    }

    Limits limits_;
    bool has_escapes_ = false;
    std::string_view name_;
    std::vector<Node> tape_;
    std::vector<Open> open_;
    std::vector<Name> names_;
    Violations violations_;
};

}  // namespace

Value Value::find(std::string_view name) const noexcept {
    if (!is(Kind::object)) return {};
    const auto found = std::find_if(begin(), end(), [name](Value member) { return member.name() == name; });
    return found == end() ? Value{} : *found;
}

struct Reader::State {
    TapeWriter writer;
    rapidjson::GenericReader<Utf8, Utf8> reader;
    std::vector<char> buffer;
};

Reader::Reader() : state_(std::make_unique<State>()) {}
Reader::~Reader() = default;
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;

Result<Value> Reader::parse(std::string_view text, const Limits& limits) {
    assert(limits.max_depth <= kMaxDepth);
    auto& [writer, reader, buffer] = *state_;
    if (text.size() > kMaxTextBytes) {
        return Violations{{"", "must not be longer than " + std::to_string(kMaxTextBytes) + " bytes"}};
    }
    if (buffer.size() > kKeptBytes) buffer = std::vector<char>();
    if (buffer.size() < text.size() + kPadding) buffer.resize(text.size() + kPadding);
    std::copy(text.begin(), text.end(), buffer.begin());
    std::fill_n(buffer.begin() + static_cast<std::ptrdiff_t>(text.size()), kPadding, '\0');

    writer.start(text, limits);
    Utf8::Stream stream(buffer.data());
    const auto outcome = reader.Parse<kFlags>(stream, writer);
    if (outcome.IsError() && outcome.Code() != rapidjson::kParseErrorTermination) {
        writer.violate("", describe(outcome.Code(), outcome.Offset(), text));
    } else if (!outcome.IsError() && stream.Tell() != text.size()) {
        // RapidJSON takes a NUL for the end of the text.
        writer.violate("", describe(rapidjson::kParseErrorDocumentRootNotSingular, stream.Tell(), text));
    }
    if (!writer.flawless()) return writer.take_violations();
    return Value(&writer.tape(), 0);
}

std::optional<std::int64_t> to_integer(std::string_view number, std::int64_t min, std::int64_t max) noexcept {
    const auto digits = number.substr(number.starts_with('-') ? 1 : 0);
    if (digits.starts_with('0') && digits.size() > 1) return std::nullopt;
    std::int64_t value = 0;
    const auto* end = number.data() + number.size();
    const auto read = std::from_chars(number.data(), end, value);
    if (read.ec != std::errc{} || read.ptr != end || value < min || value > max) return std::nullopt;
    return value;
}

void append_string(std::string& out, std::string_view text) {
    constexpr std::string_view kHexDigits = "0123456789abcdef";
    out.append(1, '"');
    std::size_t plain = 0;  // start of what was not copied yet
    for (std::size_t i = 0; i < text.size(); ++i) {
        while (text.size() - i > 8 && eight_plain(text.data() + i))
            i += 8;
        const auto c = static_cast<unsigned char>(text[i]);
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        out.append(text.substr(plain, i - plain)).append(1, '\\');
        plain = i + 1;
        switch (c) {
            case '\b':
                out.append(1, 'b');
                break;
            case '\f':
                out.append(1, 'f');
                break;
            case '\n':
                out.append(1, 'n');
                break;
            case '\r':
                out.append(1, 'r');
                break;
            case '\t':
                out.append(1, 't');
                break;
            case '"':
            case '\\':
                out.append(1, text[i]);
                break;
            default:
                out.append("u00").append(1, kHexDigits[c >> 4]).append(1, kHexDigits[c & 0xF]);
        }
    }
    out.append(text.substr(plain)).append(1, '"');
}

void append_value(std::string& out, Value value) {
    const bool object = value.is(Kind::object);
    switch (value.kind()) {
        case Kind::null:
            out.append("null");
            return;
        case Kind::boolean:
        case Kind::number:
            out.append(value.text());
            return;
        case Kind::string:
            append_string(out, value.text());
            return;
        case Kind::array:
        case Kind::object:
            break;
    }
    out.append(1, object ? '{' : '[');
    bool first = true;
    for (const auto child : value) {
        if (!std::exchange(first, false)) out.append(1, ',');
        if (object) {
            append_string(out, child.name());
            out.append(1, ':');
        }
        append_value(out, child);
    }
    out.append(1, object ? '}' : ']');
}

void append_integer(std::string& out, std::int64_t value) {
    std::array<char, 20> digits;  // of any 64-bit integer, sign included
    const auto written = std::to_chars(digits.data(), digits.data() + digits.size(), value);
    out.append(digits.data(), static_cast<std::size_t>(written.ptr - digits.data()));
}

void append_member(std::string& out, std::string_view name, std::string_view text) {
    out.append(",\"").append(name).append("\":");
    append_string(out, text);
}

void append_member(std::string& out, std::string_view name, std::int64_t number) {
    out.append(",\"").append(name).append("\":");
    append_integer(out, number);
}

std::string child_pointer(std::string_view parent, std::string_view name) {
    std::string pointer(parent);
    append_child(pointer, name);
    return pointer;
}

bool is_utf8(std::string_view text) noexcept {
    constexpr std::uint64_t kHighBits = 0x8080808080808080;
    const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    std::size_t i = 0;
    while (i < text.size()) {
        std::uint64_t eight = 0;
        if (text.size() - i >= sizeof eight) {
            std::memcpy(&eight, text.data() + i, sizeof eight);
            if ((eight & kHighBits) == 0) {
                i += sizeof eight;
                continue;
            }
        }
        const auto lead = byte(i);
        if (lead < 0x80) {
            ++i;
            continue;
        }
        if (lead < 0xC2 || lead > 0xF4) return false;
        const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        if (text.size() - i < length) return false;
        // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
        const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
        const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
        if (byte(i + 1) < low || byte(i + 1) > high) return false;
        for (std::size_t tail = 2; tail < length; ++tail) {
            if ((byte(i + tail) & 0xC0) != 0x80) return false;
        }
        i += length;
    }
    return true;
}

}  // namespace tidemark::schemas::json
