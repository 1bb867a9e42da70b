#include "producer/line.h"

#include "schemas/base64.h"
#include "schemas/dead_letter.h"
#include "schemas/event.h"
#include "schemas/imported_line.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace tidemark::producer {

using schemas::Result;
using schemas::Violations;

namespace {

void append_bytes(std::string& out, std::optional<std::string_view> bytes) {
    if (bytes) {
        schemas::json::append_string(out, schemas::to_base64(*bytes));
    } else {
        out.append("null");
    }
}

// A text as JSON can hold it.
bool is_text(std::string_view name) {
    return schemas::json::is_utf8(name) && name.find('\0') == std::string_view::npos;
}

// Of several the last one counts.
bool is_of_import(const std::vector<Line::Header>& headers) {
    const auto last = std::find_if(headers.rbegin(), headers.rend(),
                                   [](const auto& one) { return one.name == schemas::ImportedLine::kHeader; });
    return last != headers.rend() && last->value && schemas::read_imported_line(*last->value);
}

bool is_its_own_line(schemas::json::Reader& reader, const schemas::Stream& stream, const kafka::Record& record) {
    if (!record.value || !record.key || record.value->find('\n') != std::string_view::npos) return false;
    // Which line of an import it was decides whether it counts again, and only an envelope can say so.
    if (const auto line = record.header(schemas::ImportedLine::kHeader); line && schemas::read_imported_line(*line))
        return false;
    const auto event = schemas::read_event(reader, *record.value);
    if (!event) return false;
    // As of the end of time: what was too far ahead when it was appended need not be any more.
    const auto destination = find_destination(*event, schemas::Timestamp::max() - schemas::kMaxAhead);
    return destination && schemas::catalogue()[destination->topic].name == stream.name &&
           destination->key == *record.key;
}

// Whether the record was its log's own: its identity, or a decision that names an offset of it.
bool is_another_logs(schemas::json::Reader& reader, const schemas::Envelope& envelope) {
    if (!envelope.value) return false;
    const auto event = schemas::read_event(reader, *envelope.value);
    if (!event) return false;
    return schemas::dead_letter::is_decision(event->type) ||
           (envelope.place && envelope.place->position.offset == 0 && event->type == schemas::kLogCreated);
}

Line another_logs() {
    Line line;
    line.is_another_logs = true;
    return line;
}

Result<Line> to_be_produced(schemas::Envelope envelope) {
    Violations violations;
    if (envelope.headers.size() > kMostEnvelopeHeaders) {
        violations.push_back({"/headers", "are more than " + std::to_string(kMostEnvelopeHeaders) +
                                              ", which is what a record is given"});
    }
    for (const auto& [pointer, bytes] : {std::pair("/key", &envelope.key), {"/value", &envelope.value}}) {
        if (!*bytes || (*bytes)->empty())
            violations.push_back({pointer, "has no byte; a record without it is not put on the log again"});
    }
    if (!violations.empty()) return violations;
    Line line;
    line.is_envelope = true;
    line.headers = std::move(envelope.headers);
    line.is_imported = is_of_import(line.headers);
    line.destination.topic = static_cast<kafka::TopicIndex>(envelope.stream - schemas::catalogue().data());
    line.destination.key = *std::move(envelope.key);
    line.value = *std::move(envelope.value);
    return line;
}

// The envelope from its key on.
void append_record(std::string& out, const kafka::Record& record) {
    out.append(R"(,"key":)");
    append_bytes(out, record.key);
    out.append(R"(,"value":)");
    append_bytes(out, record.value);
    out.append(R"(,"headers":[)");
    for (const auto& header : record.headers()) {
        const auto value = header.value.data() == nullptr ? std::nullopt : std::optional(header.value);
        if (out.back() != '[') out.push_back(',');
        if (is_text(header.name)) {
            out.append(R"({"name":)");
            schemas::json::append_string(out, header.name);
        } else {
            out.append(R"({"name_base64":)");
            append_bytes(out, header.name);
        }
        out.append(R"(,"value":)");
        append_bytes(out, value);
        out.push_back('}');
    }
    out.append("]}");
}

}  // namespace

bool append_line(std::string& out, schemas::json::Reader& reader, const schemas::Stream& stream,
                 const kafka::Record& record) {
    if (is_its_own_line(reader, stream, record)) {
        out.append(*record.value);
        return false;
    }
    out.append(R"({"record":)");
    schemas::json::append_string(out, stream.name);
    append_record(out, record);
    return true;
}

void append_placed_line(std::string& out, const schemas::Stream& stream, const kafka::Record& record,
                        std::int32_t partitions) {
    out.append(R"({"record":)");
    schemas::json::append_string(out, stream.name);
    out.append(R"(,"position":")").append(std::to_string(record.partition)).append(":");
    schemas::json::append_integer(out, record.offset);
    out.append(R"(","partitions":)");
    schemas::json::append_integer(out, partitions);
    out.append(R"(,"appended":")");
    schemas::append_instant(out, record.append_time);
    out.push_back('"');
    append_record(out, record);
}

Result<Line> read_line(std::string_view text, schemas::json::Reader& reader, schemas::Timestamp now) {
    if (schemas::is_envelope(text)) {
        auto envelope = schemas::read_envelope(reader, text);
        if (!envelope) return envelope.violations();
        if (is_another_logs(reader, *envelope)) return another_logs();
        return to_be_produced(*std::move(envelope));
    }
    const auto event = schemas::read_event(reader, text);
    if (!event) return event.violations();
    if (schemas::dead_letter::is_decision(event->type)) return another_logs();
    auto destination = find_destination(*event, now);
    if (!destination) return destination.violations();
    return Line{std::move(*destination), std::string(text)};
}

}  // namespace tidemark::producer
