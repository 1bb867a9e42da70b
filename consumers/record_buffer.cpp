#include "consumers/record_buffer.h"

#include <algorithm>
#include <utility>

namespace tidemark::consumers {

void RecordBuffer::reset(std::span<const kafka::Start> starts) {
    parts_.clear();
    records_ = 0;
    bytes_ = 0;
    first_.reset();
    for (const auto& start : starts) {
        auto& part = parts_[start.partition];
        part.from = start.offset;
        part.next = start.offset;
    }
}

RecordBuffer::Push RecordBuffer::push(kafka::Record record, Instant now) {
    const auto found = parts_.find(record.partition);
    if (found == parts_.end()) return Push::foreign;
    auto& part = found->second;
    if (record.offset < part.next) return Push::stale;
    part.next = record.offset + 1;
    records_ += 1;
    bytes_ += record.bytes();
    part.records.push_back(std::move(record));
    if (!first_) first_ = now;
    return Push::kept;
}

void RecordBuffer::reached(std::int32_t partition, std::int64_t offset, Instant now) {
    const auto found = parts_.find(partition);
    if (found == parts_.end() || offset <= found->second.next) return;
    auto& part = found->second;
    part.next = offset;
    if (!first_) first_ = now;
}

void RecordBuffer::cut(std::int32_t partition, std::int64_t offset) {
    const auto found = parts_.find(partition);
    if (found == parts_.end() || offset >= found->second.next) return;
    auto& part = found->second;
    while (!part.records.empty() && part.records.back().offset >= offset) {
        records_ -= 1;
        bytes_ -= part.records.back().bytes();
        part.records.pop_back();
    }
    part.next = std::max(part.from, offset);
    if (std::all_of(parts_.begin(), parts_.end(),
                    [](const auto& entry) { return entry.second.next == entry.second.from; }))
        first_.reset();
}

void RecordBuffer::committed(std::span<const kafka::Start> next, Instant now) {
    for (const auto& [partition, offset] : next) {
        const auto found = parts_.find(partition);
        if (found == parts_.end()) continue;
        auto& part = found->second;
        const auto kept =
            std::find_if(part.records.begin(), part.records.end(),
                         [offset = offset](const kafka::Record& record) { return record.offset >= offset; });
        for (auto record = part.records.begin(); record != kept; ++record) {
            records_ -= 1;
            bytes_ -= record->bytes();
        }
        part.records.erase(part.records.begin(), kept);
        part.from = offset;
        part.next = std::max(part.next, offset);
    }
    first_.reset();
    for (const auto& [partition, part] : parts_) {
        if (part.next != part.from) first_ = now;
    }
}

}  // namespace tidemark::consumers
