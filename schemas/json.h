#pragma once

#include "schemas/result.h"

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::schemas::json {

enum class Kind : std::uint8_t { null, boolean, number, string, array, object };

/// Bounds that keep a foreign text from costing more than its length. What stands here is the events' own bound.
struct Limits {
    std::size_t max_depth = 8;          ///< of nested arrays and objects; at most 256, as append_value recurses
    std::size_t max_members = 16;       ///< per object; 0: no cap
    std::size_t max_number_bytes = 20;  ///< length of a number's text; 0: no cap
    bool allow_nul = false;             ///< whether a string may hold U+0000
};

/// Longest text that is read: four times the largest record of any topic.
inline constexpr std::size_t kMaxTextBytes = std::size_t{16} << 20;

/// Violations named in one text, so that a hostile one cannot buy a huge answer.
inline constexpr std::size_t kMaxViolations = 32;

struct Node {
    std::string_view text;  ///< string: decoded; number: as written; boolean: "true" or "false"; array, object: the raw
                            ///< text is not kept
    std::string_view name;  ///< decoded member name when the parent is an object
    std::uint32_t next = 0;  ///< index past this node's subtree
    std::uint32_t size = 0;  ///< array: elements, object: members
    Kind kind = Kind::null;
};

/// A parsed value: a cursor on the reader's tape. Cheap to copy; valid until its reader parses again or dies.
class Value {
public:
    Value() = default;
    Value(const std::vector<Node>* tape, std::uint32_t index) noexcept : tape_(tape), index_(index) {}

    [[nodiscard]] Kind kind() const noexcept { return node().kind; }
    [[nodiscard]] bool is(Kind kind) const noexcept { return tape_ != nullptr && node().kind == kind; }
    [[nodiscard]] std::string_view text() const noexcept { return node().text; }
    [[nodiscard]] std::string_view name() const noexcept { return node().name; }
    [[nodiscard]] std::size_t size() const noexcept { return node().size; }
    explicit operator bool() const noexcept { return tape_ != nullptr; }

    /// Object member of that name; an empty Value when there is none. Linear: objects are small by limit.
    [[nodiscard]] Value find(std::string_view name) const noexcept;

    class Iterator {
    public:
        using value_type = Value;
        using difference_type = std::ptrdiff_t;
        using iterator_category = std::input_iterator_tag;
        using pointer = const Value*;
        using reference = Value;
        Iterator(const std::vector<Node>* tape, std::uint32_t index) noexcept : tape_(tape), index_(index) {}
        Value operator*() const noexcept { return {tape_, index_}; }
        Iterator& operator++() noexcept {
            index_ = (*tape_)[index_].next;
            return *this;
        }
        bool operator==(const Iterator& other) const noexcept { return index_ == other.index_; }

    private:
        const std::vector<Node>* tape_;
        std::uint32_t index_;
    };
    /// Elements or members of an array or object.
    [[nodiscard]] Iterator begin() const noexcept { return {tape_, index_ + 1}; }
    [[nodiscard]] Iterator end() const noexcept { return {tape_, node().next}; }

private:
    [[nodiscard]] const Node& node() const noexcept { return (*tape_)[index_]; }
    const std::vector<Node>* tape_ = nullptr;
    std::uint32_t index_ = 0;
};

/// A strict, iterative JSON reader: numbers stay text, UTF-8 is validated (escapes of lone surrogates are refused too),
/// duplicate names, a byte order mark and trailing bytes are refused, no recursion. Numbers beyond the range of a
/// double are refused whatever the limits. It copies the text into a buffer of its own and unescapes there, so the
/// input stays whole; buffer and tape are reused, so a warm reader allocates nothing. One thread at a time.
class Reader {
public:
    Reader();
    ~Reader();
    Reader(Reader&&) noexcept;
    Reader& operator=(Reader&&) noexcept;

    /// The value, or every violation found, kMaxViolations at most. A syntax error and too deep nesting end the search;
    /// duplicate names and the other limits are all reported. What child_pointer would not point at is pointed at by
    /// its object. Bytes in details count from 0.
    Result<Value> parse(std::string_view text, const Limits& limits = {});

private:
    struct State;
    std::unique_ptr<State> state_;
};

/// Whether unknown members are a violation (at the edge) or ignored (in a consumer: a later producer may know more).
enum class Unknown : bool { refuse, ignore };

/// The integer of a number written without fraction, exponent or leading plus ("-0" is 0), when it is within
/// [min, max]. Nullopt otherwise.
std::optional<std::int64_t> to_integer(std::string_view number, std::int64_t min, std::int64_t max) noexcept;

/// Appends `text`, which is UTF-8, as a JSON string, quotes included; control characters, quotes and backslashes
/// escaped, the rest as it is.
void append_string(std::string& out, std::string_view text);

/// Appends `value` as compact JSON, as parsed: numbers as written, members in order.
void append_value(std::string& out, Value value);

/// Appends the decimal digits of `value`.
void append_integer(std::string& out, std::int64_t value);

/// Appends `,"name":value`: a member of an object that has one already. `name` needs no escaping.
void append_member(std::string& out, std::string_view name, std::string_view text);
void append_member(std::string& out, std::string_view name, std::int64_t number);

/// `parent` extended by a member's name, `~` and `/` escaped as RFC 6901 says; `parent` itself when the two together
/// are longer than 512 bytes or the name is not UTF-8, so that neither is sent back.
std::string child_pointer(std::string_view parent, std::string_view name);

/// Whether `text` is well-formed UTF-8 (no overlong forms, no surrogates, at most U+10FFFF).
bool is_utf8(std::string_view text) noexcept;

}  // namespace tidemark::schemas::json
