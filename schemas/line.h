#pragma once

#include "schemas/catalogue.h"
#include "schemas/instant.h"
#include "schemas/json.h"
#include "schemas/position.h"
#include "schemas/result.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::schemas {

/// A record as a line of a file, where the line is not just its event: its bytes in base64.
///   {"record":"counters","key":"azE=","value":"e30=","headers":[{"name":"traceparent","value":"MDA="}]}
/// `record` names the stream, and key or value may be null, a header's value too. A header's name that is no text
/// stands as `name_base64`. It may say where and when the record stood, so that it can be folded there again:
///   {"record":"counters","position":"0:117","partitions":4,"appended":"2026-11-22T05:00:00.123Z","key":...}
/// which is partition and offset, how many partitions its log has, and the append time.
struct Envelope {
    struct Header {
        std::string name;
        std::optional<std::string> value;
    };
    struct Place {
        Position position;
        std::int32_t partitions = 0;
        Timestamp appended{};
    };

    const Stream* stream = nullptr;
    std::optional<Place> place{};
    std::optional<std::string> key;
    std::optional<std::string> value;
    std::vector<Header> headers{};
};

/// Whether a line is, or means to be, an envelope; any other is its event.
bool is_envelope(std::string_view line) noexcept;

/// Violations point into the line. An envelope that says only a part of where its record stood has one.
Result<Envelope> read_envelope(json::Reader& reader, std::string_view line);

}  // namespace tidemark::schemas
