#include "consumers/case_file.h"

#include "consumers/generation.h"
#include "schemas/dead_letter.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace tidemark::consumers {

namespace {

class LineBody final : public kafka::Record::Body {
public:
    explicit LineBody(schemas::Envelope envelope) : envelope_(std::move(envelope)) {}

    [[nodiscard]] const schemas::Envelope& envelope() const noexcept { return envelope_; }
    [[nodiscard]] std::vector<kafka::Header> headers() const override {
        std::vector<kafka::Header> all;
        for (const auto& header : envelope_.headers)
            all.push_back({header.name, value_of(header)});
        return all;
    }
    [[nodiscard]] std::optional<std::string_view> header(const char* name) const override {
        const auto last = std::find_if(envelope_.headers.rbegin(), envelope_.headers.rend(),
                                       [name](const auto& one) { return one.name == name; });
        return last == envelope_.headers.rend() ? std::nullopt : std::optional(value_of(*last));
    }

private:
    static std::string_view value_of(const schemas::Envelope::Header& header) {
        return header.value ? std::string_view(*header.value) : std::string_view();
    }

    schemas::Envelope envelope_;
};

kafka::Record record_of(schemas::Envelope envelope, schemas::Position position, schemas::Timestamp append_time) {
    auto body = std::make_unique<LineBody>(std::move(envelope));
    kafka::Record record;
    record.partition = position.partition;
    record.offset = position.offset;
    record.append_time = append_time;
    record.key = body->envelope().key;
    record.value = body->envelope().value;
    record.own(std::move(body));
    return record;
}

}  // namespace

CaseFile::CaseFile(std::istream& lines, const Projection& projection)
    : lines_(lines), projection_(projection), fold_(projection.begin()) {}

std::optional<kafka::Record> CaseFile::next() {
    while (std::getline(lines_, text_)) {
        number_ += 1;
        if (text_.find_first_not_of(" \t\r") == std::string::npos) continue;
        if (auto record = schemas::is_envelope(text_) ? read_envelope() : read_event()) return record;
    }
    return std::nullopt;
}

std::optional<kafka::Record> CaseFile::read_envelope() {
    auto read = schemas::read_envelope(reader_, text_);
    if (!read) refuse(describe(read.violations()));
    if (read->stream != &projection_.stream()) {
        skipped_.of_other_streams += 1;
        return std::nullopt;
    }
    check_has_place(read->place.has_value());
    if (read->place) return place(*std::move(read));
    if (!read->value) return place(*std::move(read), nullptr);
    const auto event = schemas::read_event(reader_, *read->value);
    return place(*std::move(read), event ? &*event : nullptr);
}

std::optional<kafka::Record> CaseFile::read_event() {
    const auto event = schemas::read_event(reader_, text_);
    if (!event) refuse(describe(event.violations()));
    const auto* stream = schemas::stream_of_type(event->type);
    if (stream != nullptr && stream != &projection_.stream()) {
        skipped_.of_other_streams += 1;
        return std::nullopt;
    }
    check_has_place(false);
    return place({.stream = &projection_.stream(), .key = entity_of(*event), .value = text_}, &*event);
}

// Where the line says.
std::optional<kafka::Record> CaseFile::place(schemas::Envelope envelope) {
    const auto [position, partitions, appended] = *envelope.place;
    if (last_.empty()) partitions_ = partitions;
    if (partitions != partitions_) {
        refuse("/partitions: " + std::to_string(partitions) + " are not the " + std::to_string(partitions_) +
               " of the lines before it: these are two logs");
    }
    const auto [last, is_first] = last_.try_emplace(position.partition, position.offset);
    if (!is_first && position.offset <= last->second) {
        refuse("/position: the lines before it are already at offset " + std::to_string(last->second) +
               " of partition " + std::to_string(position.partition) + ": offsets rise");
    }
    last->second = position.offset;
    if (position.offset == 0 && log_uuid_.empty() && envelope.value) {
        const auto event = schemas::read_event(reader_, *envelope.value);
        const auto uuid = event && event->type == schemas::kLogCreated && event->data ? event->data.find("uuid")
                                                                                      : schemas::json::Value{};
        if (uuid) log_uuid_ = uuid.text();
    }
    return record_of(std::move(envelope), position, appended);
}

// Behind the line before it. `event`: null when the record has none.
std::optional<kafka::Record> CaseFile::place(schemas::Envelope envelope, const schemas::Event* event) {
    if (event != nullptr && schemas::dead_letter::is_decision(event->type)) {
        skipped_.decisions += 1;
        return std::nullopt;
    }
    if (event != nullptr && event->time) append_time_ = std::max(append_time_, *event->time);
    const auto [last, is_first] = last_.try_emplace(0, 0);
    if (!is_first) last->second += 1;
    return record_of(std::move(envelope), {0, last->second}, append_time_);
}

// Nullopt of one that no key could make right.
std::optional<std::string> CaseFile::entity_of(const schemas::Event& event) {
    const auto& types = projection_.stream().types;
    if (std::find(types.begin(), types.end(), event.type) == types.end()) return std::nullopt;
    std::string_view entity;
    const auto parked = fold_->read({event, {}, event.time.value_or(append_time_), append_time_}, entity);
    return parked ? std::nullopt : std::optional(std::string(entity));
}

void CaseFile::check_has_place(bool has_place) {
    if (!has_places_) has_places_ = has_place;
    if (*has_places_ == has_place) return;
    refuse(has_place ? "/position: the lines before it say none"
                     : "/position: is missing; the lines before it say theirs. A file either says where each record "
                       "stood (`tidemark-producer export --positions`), or of none");
}

void CaseFile::refuse(const std::string& why) const {
    throw Refused("line " + std::to_string(number_) + ": " + why);
}

}  // namespace tidemark::consumers
