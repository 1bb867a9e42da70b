#include "schemas/vehicles.h"

#include "schemas/members.h"

#include <algorithm>
#include <array>

namespace tidemark::schemas::vehicles {
namespace {

/// In the order of State.
constexpr std::array<std::string_view, 3> kStates{"quoted", "selling", "sold"};

}  // namespace

std::string_view to_string(State state) noexcept {
    return kStates[static_cast<std::size_t>(state)];
}

std::optional<State> parse_state(std::string_view text) noexcept {
    const auto found = std::find(kStates.begin(), kStates.end(), text);
    if (found == kStates.end()) return std::nullopt;
    return static_cast<State>(found - kStates.begin());
}

Result<Registered> read_registered(json::Value data, json::Unknown unknown, std::string_view at) {
    Members members(data, at);
    const Registered event{members.integer("id", 1, kMaxId), members.text("make", kMaxNameBytes),
                           members.text("model", kMaxNameBytes)};
    if (auto found = members.violations(unknown); !found.empty()) return found;
    return event;
}

Result<StateChanged> read_state_changed(json::Value data, json::Unknown unknown, std::string_view at) {
    Members members(data, at);
    const StateChanged event{members.integer("id", 1, kMaxId), static_cast<State>(members.one_of("state", kStates))};
    if (auto found = members.violations(unknown); !found.empty()) return found;
    return event;
}

std::optional<std::int64_t> parse_id(std::string_view text) noexcept {
    return json::to_integer(text, 1, kMaxId);
}

void append(std::string& out, const Registered& event) {
    out.append(R"({"id":)");
    json::append_integer(out, event.id);
    out.append(R"(,"make":)");
    json::append_string(out, event.make);
    out.append(R"(,"model":)");
    json::append_string(out, event.model);
    out.append(1, '}');
}

void append(std::string& out, const StateChanged& event) {
    out.append(R"({"id":)");
    json::append_integer(out, event.id);
    out.append(R"(,"state":)");
    json::append_string(out, to_string(event.state));
    out.append(1, '}');
}

}  // namespace tidemark::schemas::vehicles
