#pragma once

#include "consumers/projection.h"
#include "infra/kafka/record.h"
#include "schemas/json.h"
#include "schemas/line.h"

#include <cstdint>
#include <istream>
#include <map>
#include <memory>
#include <optional>
#include <string>

namespace tidemark::consumers {

/// The records of one stream out of a file of lines (see schemas/line.h), as a fold may take them. Either every line
/// says where its record stood, and there it is; or none does. Then the records stand one after the other in one
/// partition, an event's key is its entity, and the append times are the running maximum of the events' own times: no
/// event is ahead of its time, and nothing depends on the day. What operators decided about dead letters is skipped
/// then, for it names offsets that nobody knows any more. A pure function of the lines. One thread; `lines` and
/// `projection` must outlive it.
class CaseFile {
public:
    CaseFile(std::istream& lines, const Projection& projection);

    /// The next record, in the file's order; nullopt: there is none, or the file could not be read on (see failed()).
    /// Throws Refused, naming the line, when it cannot be read, stands where it cannot, or says in another way than the
    /// lines before it where its record stood.
    std::optional<kafka::Record> next();
    [[nodiscard]] bool failed() const { return lines_.bad(); }
    /// Of the record returned last.
    [[nodiscard]] std::size_t line_bytes() const noexcept { return text_.size(); }

    /// Of the log, from the first record on.
    [[nodiscard]] std::int32_t partitions() const noexcept { return partitions_; }
    /// What the log's identity is, if a first record of one of its partitions has said so.
    [[nodiscard]] const std::string& log_uuid() const noexcept { return log_uuid_; }

    struct Skipped {
        std::int64_t of_other_streams = 0;
        std::int64_t decisions = 0;
    };
    [[nodiscard]] const Skipped& skipped() const noexcept { return skipped_; }

private:
    std::optional<kafka::Record> read_envelope();
    std::optional<kafka::Record> read_event();
    std::optional<kafka::Record> place(schemas::Envelope envelope);
    std::optional<kafka::Record> place(schemas::Envelope envelope, const schemas::Event* event);
    std::optional<std::string> entity_of(const schemas::Event& event);
    void check_has_place(bool has_place);
    [[noreturn]] void refuse(const std::string& why) const;

    std::istream& lines_;
    const Projection& projection_;
    std::unique_ptr<Fold> fold_;  // only to be asked for entities
    schemas::json::Reader reader_;
    std::string text_;
    std::int64_t number_ = 0;  // of the line read last
    std::optional<bool> has_places_;
    std::int32_t partitions_ = 1;
    std::map<std::int32_t, std::int64_t> last_;  // offset of each partition
    schemas::Timestamp append_time_{};           // of a file without places
    std::string log_uuid_;
    Skipped skipped_;
};

}  // namespace tidemark::consumers
