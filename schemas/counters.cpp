#include "schemas/counters.h"

#include "schemas/members.h"

namespace tidemark::schemas::counters {

Result<Incremented> read(json::Value data, json::Unknown unknown, std::string_view at) {
    Members members(data, at);
    const Incremented event{members.text("key", kMaxKeyBytes), members.integer("value", -kMaxValue, kMaxValue)};
    if (auto found = members.violations(unknown); !found.empty()) return found;
    return event;
}

void append(std::string& out, const Incremented& event) {
    out.append(R"({"key":)");
    json::append_string(out, event.key);
    out.append(R"(,"value":)");
    json::append_integer(out, event.value);
    out.append(1, '}');
}

}  // namespace tidemark::schemas::counters
