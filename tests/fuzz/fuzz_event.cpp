// A record's value, as a consumer reads it: envelope, then the event of its type.

#include "target.h"

#include "schemas/counters.h"
#include "schemas/event.h"
#include "schemas/vehicles.h"

#include <optional>
#include <string>
#include <string_view>

namespace {

using namespace tidemark::schemas;
using tidemark::fuzz::require;

void check_attribute(std::string_view text) {
    require(!text.empty() && text.size() <= 256, "an attribute has 1 to 256 bytes");
    require(json::is_utf8(text) && text.find('\0') == std::string_view::npos, "an attribute is text");
}

void check_violations(const Violations& violations, std::string_view at) {
    require(!violations.empty() && violations.size() <= json::kMaxViolations, "a refusal says why, within bounds");
    for (const auto& violation : violations) {
        require(violation.pointer.starts_with(at) && json::is_utf8(violation.pointer),
                "a pointer points below its place");
    }
}

/// The canonical text of the typed event, or none when `data` is not one.
std::optional<std::string> typed(const Event& event) {
    std::string out;
    const auto write = [&out](const auto& result) {
        if (!result) {
            check_violations(result.violations(), "/data");
            return false;
        }
        append(out, *result);
        return true;
    };
    bool written = false;
    if (event.type == counters::kIncremented) {
        const auto increment = counters::read(event.data, json::Unknown::ignore, "/data");
        written = write(increment);
        if (increment) {
            require(!increment->key.empty() && increment->key.size() <= counters::kMaxKeyBytes,
                    "a key has 1 to 256 bytes");
            require(increment->key.find('\0') == std::string_view::npos, "a key has no U+0000");
            require(increment->value >= -counters::kMaxValue && increment->value <= counters::kMaxValue,
                    "a value is bounded");
        }
    } else if (event.type == vehicles::kRegistered) {
        written = write(vehicles::read_registered(event.data, json::Unknown::ignore, "/data"));
    } else if (event.type == vehicles::kStateChanged) {
        written = write(vehicles::read_state_changed(event.data, json::Unknown::ignore, "/data"));
    }
    if (!written) return std::nullopt;
    return out;
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static json::Reader reader;
    const auto event = read_event(reader, tidemark::fuzz::as_text(data, size));
    if (!event) {
        check_violations(event.violations(), "");
        return 0;
    }
    for (const auto text : {event->id, event->source, event->type})
        check_attribute(text);
    if (event->idempotency_key) check_attribute(*event->idempotency_key);
    if (event->traceparent) check_attribute(*event->traceparent);

    std::string payload;
    if (event->data) json::append_value(payload, event->data);
    const auto time = event->time.value_or(Timestamp{});
    const EventText text{event->id,          event->source, event->type, time, event->idempotency_key,
                         event->traceparent, payload};
    std::string canonical;
    append_event(canonical, text);

    json::Reader other;
    const auto again = read_event(other, canonical);
    require(again.ok(), "a written event can be read");
    require(again->id == event->id && again->source == event->source && again->type == event->type,
            "its attributes survive");
    require(again->time == time, "its time survives");
    require(again->idempotency_key == event->idempotency_key && again->traceparent == event->traceparent,
            "its extensions survive");
    require(data_hash(again->data) == data_hash(event->data), "its data survives");
    require(typed(*again) == typed(*event), "its typed form survives");
    return 0;
}
