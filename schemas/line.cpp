#include "schemas/line.h"

#include "schemas/base64.h"

#include <limits>
#include <utility>

namespace tidemark::schemas {

using json::Kind;

namespace {

// As many as a log may have.
constexpr std::int64_t kMostPartitions = 10'000;

// Of a record as large as a topic takes, in base64.
constexpr json::Limits kLimits{.max_depth = 3, .max_members = 7, .max_number_bytes = 20, .allow_nul = false};

std::vector<Envelope::Header> read_headers(json::Value headers, Violations& violations) {
    std::vector<Envelope::Header> all;
    if (!headers) return all;
    if (!headers.is(Kind::array)) {
        violations.push_back({"/headers", "is not an array"});
        return all;
    }
    std::size_t number = 0;
    for (const auto header : headers) {
        const auto pointer = "/headers/" + std::to_string(number++);
        if (!header.is(Kind::object)) {
            violations.push_back({pointer, "is not an object"});
            continue;
        }
        const auto text = header.find("name");
        const auto encoded = header.find("name_base64");
        std::optional<std::string> name;
        if (text && !encoded && text.is(Kind::string)) name = text.text();
        if (encoded && !text && encoded.is(Kind::string)) name = from_base64(encoded.text());
        if (!name) violations.push_back({pointer + "/name", "is no text, and there is no name_base64 instead"});
        const auto given = header.find("value");
        std::optional<std::string> value;
        if (given && given.is(Kind::string)) value = from_base64(given.text());
        if (!value && !(given && given.is(Kind::null)))
            violations.push_back({pointer + "/value", "is neither base64 nor null"});
        if (name) all.push_back({*std::move(name), std::move(value)});
    }
    return all;
}

std::optional<std::string> read_bytes(json::Value envelope, const char* member, Violations& violations) {
    const auto given = envelope.find(member);
    std::optional<std::string> bytes;
    if (given && given.is(Kind::string)) bytes = from_base64(given.text());
    if (!bytes && !(given && given.is(Kind::null)))
        violations.push_back({std::string("/") + member, "is neither base64 nor null"});
    return bytes;
}

std::optional<Position> read_position(std::string_view text) {
    const auto colon = text.find(':');
    if (colon == std::string_view::npos) return std::nullopt;
    const auto partition = json::to_integer(text.substr(0, colon), 0, std::numeric_limits<std::int32_t>::max());
    // The offset behind the last one is a number, too.
    const auto offset = json::to_integer(text.substr(colon + 1), 0, std::numeric_limits<std::int64_t>::max() - 1);
    if (!partition || !offset) return std::nullopt;
    return Position{static_cast<std::int32_t>(*partition), *offset};
}

std::optional<Envelope::Place> read_place(json::Value envelope, Violations& violations) {
    const auto position = envelope.find("position");
    const auto partitions = envelope.find("partitions");
    const auto appended = envelope.find("appended");
    if (!position && !partitions && !appended) return std::nullopt;
    Envelope::Place place;
    const auto before = violations.size();
    const auto stood = position.is(Kind::string) ? read_position(position.text()) : std::nullopt;
    if (!stood) violations.push_back({"/position", "is not PARTITION:OFFSET, e.g. \"2:1834\""});
    const auto count =
        partitions.is(Kind::number) ? json::to_integer(partitions.text(), 1, kMostPartitions) : std::nullopt;
    if (!count) violations.push_back({"/partitions", "is not the number of the log's partitions, 1 to 10000"});
    const auto instant = appended.is(Kind::string) ? parse_instant(appended.text()) : std::nullopt;
    if (!instant) violations.push_back({"/appended", "is no instant, e.g. \"2026-11-20T10:00:00.123Z\""});
    if (violations.size() > before) return std::nullopt;
    place.position = *stood;
    place.partitions = static_cast<std::int32_t>(*count);
    place.appended = *instant;
    if (place.position.partition >= place.partitions) {
        violations.push_back({"/position", "is in none of the log's " + std::to_string(place.partitions) +
                                               " partitions, which begin with 0"});
    }
    return place;
}

}  // namespace

bool is_envelope(std::string_view line) noexcept {
    return line.starts_with(R"({"record":)");
}

Result<Envelope> read_envelope(json::Reader& reader, std::string_view line) {
    const auto read = reader.parse(line, kLimits);
    if (!read) return read.violations();
    Violations violations;
    Envelope envelope;
    const auto name = read->find("record");
    if (name.is(Kind::string)) envelope.stream = find_stream(name.text());
    if (envelope.stream == nullptr) violations.push_back({"/record", "is not a stream"});
    envelope.place = read_place(*read, violations);
    envelope.headers = read_headers(read->find("headers"), violations);
    envelope.key = read_bytes(*read, "key", violations);
    envelope.value = read_bytes(*read, "value", violations);
    if (!violations.empty()) return violations;
    return envelope;
}

}  // namespace tidemark::schemas
