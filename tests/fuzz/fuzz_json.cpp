// A request's body, as the edge reads it: strict JSON, then each command it might be.

#include "target.h"

#include "schemas/counters.h"
#include "schemas/json.h"
#include "schemas/vehicles.h"

#include <string>

namespace {

using namespace tidemark::schemas;
using tidemark::fuzz::require;

/// As items are read: no limit but depth.
constexpr json::Limits kWide{.max_depth = 64, .max_members = 0, .max_number_bytes = 0, .allow_nul = true};

std::string compact(json::Value value) {
    std::string out;
    json::append_value(out, value);
    return out;
}

void check_violations(const Violations& violations) {
    require(!violations.empty(), "a refusal says why");
    require(violations.size() <= json::kMaxViolations, "the list of violations is bounded");
    for (const auto& [pointer, detail] : violations) {
        require(pointer.empty() || pointer.front() == '/', "a pointer is empty or starts with a slash");
        require(json::is_utf8(pointer) && json::is_utf8(detail), "a violation can be sent back as JSON");
        require(!detail.empty(), "a violation says what is wrong");
    }
}

/// What was accepted is UTF-8, and its compact form is accepted too and is its own compact form.
void check_round_trip(json::Reader& reader, std::string_view text, const json::Limits& limits) {
    const auto value = reader.parse(text, limits);
    if (!value) return check_violations(value.violations());
    require(json::is_utf8(text), "what is accepted is UTF-8");
    const auto once = compact(*value);
    require(json::is_utf8(once), "what is written is UTF-8");
    const auto again = reader.parse(once, limits);
    require(again.ok(), "what is written can be read");
    require(compact(*again) == once, "writing is stable");
}

template <typename Read>
void check_command(json::Reader& reader, std::string_view text, Read read) {
    const auto body = reader.parse(text);
    if (!body) return;
    const auto command = read(*body, json::Unknown::refuse);
    if (!command) return check_violations(command.violations());
    require(read(*body, json::Unknown::ignore).ok(), "the edge accepts nothing that a consumer refuses");
    std::string once;
    append(once, *command);
    json::Reader other;
    const auto value = other.parse(once);
    require(value.ok(), "a written command can be read");
    const auto again = read(*value, json::Unknown::refuse);
    require(again.ok(), "a written command is a command");
    std::string twice;
    append(twice, *again);
    require(once == twice, "a command survives being written and read");
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static json::Reader reader;
    const auto text = tidemark::fuzz::as_text(data, size);
    check_round_trip(reader, text, {});
    check_round_trip(reader, text, kWide);
    const auto read_increment = [](json::Value value, json::Unknown unknown) { return counters::read(value, unknown); };
    const auto read_registered = [](json::Value value, json::Unknown unknown) {
        return vehicles::read_registered(value, unknown);
    };
    const auto read_state_changed = [](json::Value value, json::Unknown unknown) {
        return vehicles::read_state_changed(value, unknown);
    };
    check_command(reader, text, read_increment);
    check_command(reader, text, read_registered);
    check_command(reader, text, read_state_changed);
    return 0;
}
