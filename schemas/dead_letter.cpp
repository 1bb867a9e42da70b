#include "schemas/dead_letter.h"

#include "schemas/members.h"

#include <limits>

namespace tidemark::schemas::dead_letter {

namespace {

constexpr auto kMaxOffset = std::numeric_limits<std::int64_t>::max();

void append_offset(std::string& out, std::int64_t offset) {
    out.append(R"({"offset":)");
    json::append_integer(out, offset);
}

void append_text(std::string& out, std::string_view name, std::optional<std::string_view> text) {
    if (text) json::append_member(out, name, *text);
    out.append(1, '}');
}

}  // namespace

Result<Redriven> read_redriven(json::Value data, json::Unknown unknown, std::string_view at) {
    Members members(data, at);
    const Redriven event{members.integer("offset", 0, kMaxOffset), members.optional_text("edit", kMaxEditBytes),
                         members.optional_integer("attempts", 1, kMaxOffset)};
    if (auto found = members.violations(unknown); !found.empty()) return found;
    return event;
}

Result<Discarded> read_discarded(json::Value data, json::Unknown unknown, std::string_view at) {
    Members members(data, at);
    const Discarded event{members.integer("offset", 0, kMaxOffset), members.optional_text("note", kMaxNoteBytes)};
    if (auto found = members.violations(unknown); !found.empty()) return found;
    return event;
}

void append(std::string& out, const Redriven& event) {
    append_offset(out, event.offset);
    if (event.attempts) json::append_member(out, "attempts", *event.attempts);
    append_text(out, "edit", event.edit);
}

void append(std::string& out, const Discarded& event) {
    append_offset(out, event.offset);
    append_text(out, "note", event.note);
}

}  // namespace tidemark::schemas::dead_letter
