#include "producer/line.h"

#include "schemas/base64.h"
#include "schemas/dead_letter.h"
#include "schemas/event.h"

#include <limits>
#include <optional>
#include <utility>

namespace tidemark::producer {

using schemas::Result;
using schemas::Violations;
using schemas::json::Kind;

namespace {

// Of a record as large as a topic takes, in base64.
constexpr schemas::json::Limits kEnvelope{.max_depth = 3, .max_members = 4, .max_number_bytes = 20, .allow_nul = false};

void append_bytes(std::string& out, std::optional<std::string_view> bytes) {
    if (bytes) {
        schemas::json::append_string(out, schemas::to_base64(*bytes));
    } else {
        out.append("null");
    }
}

bool is_its_own_line(schemas::json::Reader& reader, const schemas::Stream& stream, const kafka::Record& record) {
    if (!record.value || !record.key || record.value->find('\n') != std::string_view::npos) return false;
    const auto event = schemas::read_event(reader, *record.value);
    if (!event) return false;
    // As of the end of time: what was too far ahead when it was appended need not be any more.
    const auto destination = find_destination(*event, schemas::Timestamp::max() - schemas::kMaxAhead);
    return destination && schemas::catalogue()[destination->topic].name == stream.name &&
           destination->key == *record.key;
}

Result<Line> read_envelope(schemas::json::Value envelope) {
    Violations violations;
    const auto name = envelope.find("record");
    const auto* stream = name.is(Kind::string) ? schemas::find_stream(name.text()) : nullptr;
    if (stream == nullptr) violations.push_back({"/record", "is not a stream"});
    const auto bytes = [&](const char* member) -> std::string {
        const auto value = envelope.find(member);
        if (value && value.is(Kind::string)) {
            if (auto decoded = schemas::from_base64(value.text()); decoded && !decoded->empty())
                return *std::move(decoded);
        }
        violations.push_back({std::string("/") + member,
                              "is not base64 of at least one byte; a record without it is not "
                              "put on the log again"});
        return {};
    };
    Line line;
    line.destination.key = bytes("key");
    line.value = bytes("value");
    schemas::json::Reader reader;
    const auto event = schemas::read_event(reader, line.value);
    if (event && schemas::dead_letter::is_decision(event->type)) {
        violations.push_back({"/value", "is a decision about a dead letter of another log, which this one has not"});
    }
    if (!violations.empty()) return violations;
    line.destination.topic = static_cast<kafka::TopicIndex>(stream - schemas::catalogue().data());
    return line;
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
    out.append(R"(,"key":)");
    append_bytes(out, record.key);
    out.append(R"(,"value":)");
    append_bytes(out, record.value);
    out.append(R"(,"headers":[)");
    for (const auto& header : record.headers()) {
        if (out.back() != '[') out.push_back(',');
        out.append(R"({"name":)");
        schemas::json::append_string(out, header.name);
        out.append(R"(,"value":)");
        append_bytes(out, header.value);
        out.push_back('}');
    }
    out.append("]}");
    return true;
}

Result<Line> read_line(std::string_view text, schemas::json::Reader& reader, schemas::Timestamp now) {
    if (text.starts_with(R"({"record":)")) {
        const auto envelope = reader.parse(text, kEnvelope);
        if (!envelope) return envelope.violations();
        return read_envelope(*envelope);
    }
    const auto event = schemas::read_event(reader, text);
    if (!event) return event.violations();
    auto destination = find_destination(*event, now);
    if (!destination) return destination.violations();
    return Line{std::move(*destination), std::string(text)};
}

}  // namespace tidemark::producer
