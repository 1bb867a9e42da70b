#pragma once

#include "infra/kafka/ports.h"
#include "producer/intake.h"
#include "schemas/catalogue.h"
#include "schemas/json.h"
#include "schemas/line.h"
#include "schemas/result.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::producer {

/// A line of an exported file is one record. An event that a line can hold and whose key follows from it is the line,
/// byte for byte. Any other record, so that it comes back as it was, is an envelope of its bytes (see schemas/line.h).
/// A record of an import is one, too: it says in a header which line of which file it was, and keeps saying so wherever
/// it goes, so that two records of one line never count twice. And so is every record when the file says where each
/// stood.
struct Line {
    using Header = schemas::Envelope::Header;
    Destination destination;
    std::string value;
    bool is_envelope = false;
    bool is_imported = false;  ///< its headers name the line of an import that it once was
    /// Of the log that it was exported from, and so of no other: its identity, or an operator's decision about a dead
    /// letter of it. Nothing else of this is set then.
    bool is_another_logs = false;
    std::vector<Header> headers{};  ///< of an envelope: all of its record's, which gets no others but its line's
};

/// The rest of a record's room is its import's.
inline constexpr std::size_t kMostEnvelopeHeaders = kafka::kMaxHeaders - 4;

/// Appends the record's line, without its end. Returns whether it is an envelope.
bool append_line(std::string& out, schemas::json::Reader& reader, const schemas::Stream& stream,
                 const kafka::Record& record);
/// The same as an envelope that says where and when the record stood, in a log of so many partitions.
void append_placed_line(std::string& out, const schemas::Stream& stream, const kafka::Record& record,
                        std::int32_t partitions);

/// What a line holds. An event is checked as find_destination does; an envelope is taken as it is, wherever its record
/// stood, but that a record without key or value cannot be put on the log by this program.
schemas::Result<Line> read_line(std::string_view text, schemas::json::Reader& reader, schemas::Timestamp now);

}  // namespace tidemark::producer
