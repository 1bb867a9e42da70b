#include "producer/line.h"

#include "schemas/base64.h"
#include "schemas/dead_letter.h"
#include "schemas/event.h"
#include "schemas/imported_line.h"

#include <algorithm>
#include <iterator>
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

Result<std::vector<Line::Header>> read_headers(schemas::json::Value headers) {
    std::vector<Line::Header> all;
    if (!headers) return all;
    if (!headers.is(Kind::array)) return Violations{{"/headers", "is not an array"}};
    if (static_cast<std::size_t>(std::distance(headers.begin(), headers.end())) > kMostEnvelopeHeaders) {
        return Violations{{"/headers", "are more than " + std::to_string(kMostEnvelopeHeaders) +
                                           ", which is what a record is given"}};
    }
    Violations violations;
    std::size_t number = 0;
    for (const auto header : headers) {
        const auto pointer = "/headers/" + std::to_string(number++);
        if (!header.is(Kind::object)) {
            violations.push_back({pointer, "is not an object"});
            continue;
        }
        const auto text = header.find("name");
        const auto encoded = header.find("name_base64");
        std::optional<std::string> name;
        if (text && !encoded && text.is(Kind::string)) name = text.text();
        if (encoded && !text && encoded.is(Kind::string)) name = schemas::from_base64(encoded.text());
        if (!name) violations.push_back({pointer + "/name", "is no text, and there is no name_base64 instead"});
        const auto given = header.find("value");
        std::optional<std::string> value;
        if (given && given.is(Kind::string)) value = schemas::from_base64(given.text());
        if (!value && !(given && given.is(Kind::null)))
            violations.push_back({pointer + "/value", "is neither base64 nor null"});
        if (name) all.push_back({*std::move(name), std::move(value)});
    }
    if (!violations.empty()) return violations;
    return all;
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
    line.is_envelope = true;
    auto headers = read_headers(envelope.find("headers"));
    if (headers) {
        line.headers = *std::move(headers);
    } else {
        violations.insert(violations.end(), headers.violations().begin(), headers.violations().end());
    }
    line.is_imported = is_of_import(line.headers);
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
