#include "producer/export.h"

#include "infra/kafka/admin.h"
#include "infra/kafka/consumer.h"
#include "producer/line.h"
#include "schemas/dead_letter.h"
#include "schemas/event.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <stdexcept>
#include <vector>

namespace tidemark::producer {

namespace {

struct Range {
    std::int32_t partition = 0;
    std::int64_t from = 0;
    std::int64_t to = 0;
};

std::vector<std::int64_t> offsets_of(kafka::Admin& admin, const std::string& topic, std::int32_t partitions,
                                     const Bound& bound, const std::vector<std::int64_t>& otherwise) {
    if (const auto* offset = std::get_if<std::int64_t>(&bound))
        return std::vector<std::int64_t>(static_cast<std::size_t>(partitions), *offset);
    if (const auto* instant = std::get_if<schemas::Timestamp>(&bound))
        return admin.offsets_at(topic, partitions, *instant);
    return otherwise;
}

std::vector<Range> ranges(kafka::Admin& admin, const ExportOptions& options, std::int32_t partitions) {
    const std::string topic(options.stream->topic);
    if (options.partition && *options.partition >= partitions) {
        throw std::runtime_error("topic " + topic + " has no partition " + std::to_string(*options.partition) +
                                 ", only 0 to " + std::to_string(partitions - 1));
    }
    const auto marks = admin.watermarks(topic, partitions);
    std::vector<std::int64_t> lows;
    std::vector<std::int64_t> highs;
    for (const auto& mark : marks) {
        lows.push_back(mark.low);
        highs.push_back(mark.high);
    }
    const auto from = offsets_of(admin, topic, partitions, options.from, lows);
    const auto to = offsets_of(admin, topic, partitions, options.to, highs);
    std::vector<Range> all;
    for (std::int32_t partition = 0; partition < partitions; ++partition) {
        if (options.partition && partition != *options.partition) continue;
        const auto n = static_cast<std::size_t>(partition);
        const Range range{partition, std::max(from[n], lows[n]), std::min(to[n], highs[n])};
        if (range.from < range.to) all.push_back(range);
    }
    return all;
}

// The log's own records are of one log: its identity, and decisions about dead letters, which name offsets.
bool is_of_the_log(schemas::json::Reader& reader, const kafka::Record& record) {
    if (!record.value) return false;
    const auto event = schemas::read_event(reader, *record.value);
    if (!event) return false;
    return schemas::dead_letter::is_decision(event->type) ||
           (record.offset == 0 && event->type == schemas::kLogCreated);
}

class Export {
public:
    Export(const ExportOptions& options, std::ostream& out, std::int32_t partitions, std::vector<Range> all)
        : options_(options),
          out_(out),
          partitions_(partitions),
          ranges_(std::move(all)),
          consumer_(consumer_options(options, ranges_)) {
        for (const auto& range : ranges_)
            total_ += range.to - range.from;
    }

    ExportReport run() {
        // The reader says first what it has.
        while (!std::holds_alternative<kafka::Assigned>(consumer_.poll(std::chrono::milliseconds(100)))) {
        }
        for (const auto& range : ranges_) {
            if (!write(range)) return report_;
        }
        flush();
        report_.complete = true;
        return report_;
    }

private:
    static kafka::ConsumerOptions consumer_options(const ExportOptions& options, const std::vector<Range>& ranges) {
        kafka::ConsumerOptions consumer;
        consumer.brokers = options.brokers;
        consumer.topic = options.stream->topic;
        consumer.group = "tidemark-export";
        for (const auto& range : ranges)
            consumer.partitions.push_back(range.partition);
        consumer.client_id = "tidemark-export";
        consumer.queued_min_messages = 100'000;
        consumer.properties = options.properties;
        return consumer;
    }

    // False: cancelled.
    bool write(const Range& range) {
        const std::array starts{kafka::Start{range.partition, range.from}};
        consumer_.assign(starts);
        std::int64_t next = range.from;
        while (next < range.to) {
            if (options_.cancelled()) return false;
            const auto polled = consumer_.poll(std::chrono::milliseconds(100));
            if (const auto* record = std::get_if<kafka::Record>(&polled)) {
                next = record->offset + 1;
                if (record->offset < range.to) take(*record);
            } else if (const auto* end = std::get_if<kafka::EndOfPartition>(&polled)) {
                next = end->offset;
            }
            options_.on_progress(done_ + next - range.from, total_);
        }
        done_ += range.to - range.from;
        return true;
    }

    void take(const kafka::Record& record) {
        if (options_.positions) {
            append_placed_line(text_, *options_.stream, record, partitions_);
            report_.envelopes += 1;
        } else if (is_of_the_log(reader_, record)) {
            report_.left_out += 1;
            return;
        } else {
            report_.envelopes += append_line(text_, reader_, *options_.stream, record) ? 1 : 0;
        }
        report_.lines += 1;
        text_.push_back('\n');
        constexpr std::size_t kWriteBytes = 256 * 1024;
        if (text_.size() >= kWriteBytes) flush();
    }

    void flush() {
        out_.write(text_.data(), static_cast<std::streamsize>(text_.size()));
        text_.clear();
        out_.flush();
        if (!out_) throw std::runtime_error("the lines cannot be written: is the disk full, or the reader gone?");
    }

    const ExportOptions& options_;
    std::ostream& out_;
    std::int32_t partitions_;  // of the log
    std::vector<Range> ranges_;
    kafka::Consumer consumer_;
    schemas::json::Reader reader_;
    std::string text_;
    ExportReport report_;
    std::int64_t done_ = 0;
    std::int64_t total_ = 0;
};

}  // namespace

ExportReport export_events(const ExportOptions& options, std::ostream& out) {
    kafka::Admin admin(options.brokers, options.properties);
    const std::string topic(options.stream->topic);
    const auto partitions = admin.partition_count(topic);
    if (!partitions) throw std::runtime_error("there is no topic " + topic + ": run `tidemark-consumer migrate` first");
    auto all = ranges(admin, options, *partitions);
    if (all.empty()) return {.complete = true};
    return Export(options, out, *partitions, std::move(all)).run();
}

}  // namespace tidemark::producer
