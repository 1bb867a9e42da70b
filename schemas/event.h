#pragma once

#include "schemas/instant.h"
#include "schemas/json.h"
#include "schemas/result.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tidemark::schemas {

/// A CloudEvents 1.0 envelope in structured JSON form, as read. Views point into the reader that parsed it.
struct Event {
    std::string_view id;            ///< 1..256 bytes
    std::string_view source;        ///< 1..256 bytes
    std::string_view type;          ///< 1..256 bytes
    std::optional<Timestamp> time;  ///< when it happened; absent on some foreign records
    std::optional<std::string_view>
        idempotency_key;  ///< attribute `idempotencykey`, 1..256 bytes: present iff the event is deduplicated
    std::optional<std::string_view> traceparent;
    json::Value data;  ///< absent when the event has none
};

/// Reads an envelope. Refused: what is not one JSON object; `specversion` other than "1.0"; `id`, `source` or `type`
/// missing or empty; `time` that is no instant; `data_base64`; a `datacontenttype` that is not JSON; an attribute that
/// is neither string, boolean nor integer; U+0000 in an attribute, and in `data` unless the limits allow it. A null
/// attribute is an absent one (the CloudEvents JSON format says so). Unknown attributes are let through. Violations
/// point into the envelope.
Result<Event> read_event(json::Reader& reader, std::string_view bytes, const json::Limits& limits = {});

/// Appends an envelope in its one canonical form: members in the order specversion, id, source, type, time,
/// idempotencykey, traceparent, data. `data` is JSON text and is taken as it is; there is no such member when it is
/// empty.
struct EventText {
    std::string_view id;
    std::string_view source;
    std::string_view type;
    Timestamp time;
    std::optional<std::string_view> idempotency_key;
    std::optional<std::string_view> traceparent;
    std::string_view data;
};
void append_event(std::string& out, const EventText& event);

/// Identity of a deduplicated event: base64url (43 characters, no padding) of SHA-256 over the length-prefixed parts.
/// (caller, canonical route, entity, client's key) when the API gives it, (source, id, entity) for whole events.
std::string idempotency_identity(std::span<const std::string_view> parts);

/// SHA-256 of `data`, first 16 bytes: what tells a repeat from a conflict. Of the value as written compactly (numbers
/// as text, members in order), so that white space does not make a conflict; of nothing when there is no data.
std::string data_hash(json::Value data);

/// A new UUIDv7 (RFC 9562), lower case, of that wall-clock time and 74 random bits; later calls of one process sort
/// later, also when the clock steps back. `now` is the clock's, never an event's: one far ahead drags all later ids
/// along. Any thread.
std::string make_uuid7(Timestamp now);

/// The first record of every partition; its `data` is {"uuid"}: the log's identity.
inline constexpr std::string_view kLogCreated = "tidemark.log.created.v1";

/// How far ahead of its append time an event's time may lie before it is refused (`from_the_future`).
inline constexpr std::chrono::hours kMaxAhead{1};

/// Log time within which a repeat of an identity is a duplicate.
inline constexpr std::chrono::hours kDedupeHorizon{24};

}  // namespace tidemark::schemas
