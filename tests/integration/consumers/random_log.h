#pragma once

#include "infra/kafka/partitioner.h"
#include "schemas/dead_letter.h"
#include "schemas/event.h"
#include "schemas/json.h"
#include "tests/integration/consumers/scratch.h"
#include "tests/support/fake_log.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace tidemark::tests {

inline constexpr std::string_view kIncremented = "tidemark.counter.incremented.v1";
inline constexpr std::string_view kRegistered = "tidemark.vehicle.registered.v1";
inline constexpr std::string_view kStateChanged = "tidemark.vehicle.state_changed.v1";

/// An envelope, written here by hand so that it may be odd.
struct EventSketch {
    std::string_view type;
    std::string data;  // JSON; empty: no such member
    std::optional<base::Timestamp> time;
    std::optional<std::string> identity;
    bool escaped = false;  // the identity's name spelt with an escape

    [[nodiscard]] std::string text() const {
        std::string out = R"({"specversion":"1.0","id":"1","source":"/test","type":")" + std::string(type) + '"';
        if (time) out += R"(,"time":")" + schemas::format_instant(*time) + '"';
        if (identity) {
            out += escaped ? R"(,"idempotencyke\u0079":)" : R"(,"idempotencykey":)";
            schemas::json::append_string(out, *identity);
        }
        if (!data.empty()) out += R"(,"data":)" + data;
        return out + '}';
    }
};

inline std::string increment_data(std::string_view key, const std::string& value) {
    std::string data = R"({"key":)";
    schemas::json::append_string(data, key);
    return data + R"(,"value":)" + value + '}';
}

/// The first record of every partition.
inline void identify(FakeLog& log) {
    for (std::int32_t partition = 0; partition < log.partitions(); ++partition) {
        log.append(partition, "identity",
                   EventSketch{schemas::kLogCreated, R"({"uuid":")" + std::string(kLogUuid) + "\"}", {}, {}}.text(),
                   base::Timestamp{std::chrono::seconds(1'699'999'000)});
    }
}

/// A log in which everything happens that may happen to a stream's topic, by seed: repeats and conflicts of identities
/// within the horizon and beyond it, records of strangers, late events and ties, append times that step back, gaps.
class RandomLog {
public:
    /// `decides`: of a hundred records so many are operators' decisions, and when they are more than the usual few most
    /// are about the first letters of their keys.
    RandomLog(std::uint64_t seed, bool counters, std::int32_t partitions, int records, int decides = kDecides)
        : random_(seed), counters_(counters), decides_(decides), log_(partitions) {
        identify(log_);
        for (int i = 0; i < records; ++i)
            append();
    }

    [[nodiscard]] const FakeLog& log() const { return log_; }

private:
    static constexpr int kDecides = 12;

    std::int64_t below(std::int64_t bound) {
        return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(bound));
    }
    bool chance(int percent) { return below(100) < percent; }
    std::int32_t any_partition() { return static_cast<std::int32_t>(below(log_.partitions())); }

    std::string entity() {
        static const std::string keys[] = {"a",           "NULL",        "{\"quoted\\\", and more}",
                                           "line\nbreak", "100% / it's", "\xF0\x9F\x9A\x97",
                                           "e\xCC\x81",   "\xC3\xA9",    std::string(256, 'k')};
        auto one = counters_        ? keys[below(std::ssize(keys))]
                   : below(10) == 0 ? "9007199254740991"
                                    : std::to_string(1 + below(6));
        entities_.insert(one);
        return one;
    }

    EventSketch sketch(const std::string& entity) {
        EventSketch event;
        if (counters_) {
            static const char* const values[] = {"0", "-0", "1", "7", "-3", "9007199254740991", "-9007199254740991"};
            event.type = kIncremented;
            event.data = increment_data(entity, values[below(std::ssize(values))]);
        } else if (chance(30)) {
            static const char* const names[] = {"Audi", "\\u00e9clair \\\"S\\\"", "X"};
            event.type = kRegistered;
            event.data =
                R"({"id":)" + entity + R"(,"make":")" + names[below(3)] + R"(","model":")" + names[below(3)] + "\"}";
        } else {
            static const char* const states[] = {"quoted", "selling", "sold"};
            event.type = kStateChanged;
            event.data = R"({"id":)" + entity + R"(,"state":")" + states[below(3)] + "\"}";
        }
        switch (below(8)) {
            case 0:
                break;  // the append time stands for it
            case 1:
                event.time = append_time_ - std::chrono::hours(below(48));
                break;
            case 2:
                event.time = append_time_ + schemas::kMaxAhead;
                break;
            case 3:
                // Ties: among the late ones, and as the newest of their entity.
                event.time = chance(50) ? base::Timestamp{std::chrono::seconds(1'700'000'000 + below(3))}
                                        : std::chrono::ceil<std::chrono::minutes>(append_time_);
                break;
            case 4:
                event.time = *schemas::parse_instant("0001-01-01T00:00:00Z");
                break;
            default:
                event.time = append_time_ - std::chrono::microseconds(below(30'000'000));
                break;
        }
        if (chance(40)) {
            event.identity = entity + "/" + std::to_string(below(2));
            if (event.identity->size() > 256) event.identity->erase(0, event.identity->size() - 256);
            event.escaped = chance(20);
            // Mostly a true repeat: the data that this identity was first sent with.
            auto& first = first_data_.try_emplace(*event.identity, event.type, event.data).first->second;
            if (chance(75)) std::tie(event.type, event.data) = first;
        }
        return event;
    }

    void append() {
        append_time_ += std::chrono::microseconds(below(5'000'000));
        if (chance(6)) append_time_ += std::chrono::hours(below(30));
        if (chance(5)) append_time_ -= std::chrono::hours(below(3));
        if (chance(decides_)) return decide();
        const auto key = entity();
        auto event = sketch(key);
        FakeLog::Entry record;
        record.append_time = append_time_;
        record.key = key;
        auto partition = kafka::murmur2_partition(key, log_.partitions());
        if (chance(10)) log_.skip(partition, 1 + below(3));
        if (chance(15))
            record.headers = {{"plain", "text"}, {std::string("\0\xFF\"{}", 5), std::string("NULL\\\0", 6)}, {"", ""}};
        record.value = event.text();
        if (chance(25)) {
            spoil(record, event, partition);
            spoilt_.emplace_back(partition, log_.end(partition));
        }
        if (chance(25)) import(record, partition);
        log_.append(partition, std::move(record));
    }

    // As a line of one of two files, of which most come more than once, also as something else; or nearly so.
    void import(FakeLog::Entry& record, std::int32_t& partition) {
        static const std::string files[] = {std::string(22, 'A'), std::string(21, '_') + "-"};
        const auto number = chance(50) ? 1 + below(12) : 8'190 + below(6);
        auto header = files[below(2)] + ":" + std::to_string(number);
        if (chance(10)) header.insert(static_cast<std::size_t>(below(std::ssize(header) + 1)), chance(50) ? "0" : " ");
        record.headers.emplace_back("import", chance(95) ? header : "");
        if (chance(10)) record.headers.emplace_back("import", "of another kind");
        if (chance(5)) record.headers.emplace_back("Import", header);
        auto& first = imported_.try_emplace(header, record, partition).first->second;
        if (chance(60)) std::tie(record, partition) = std::pair(first.first, first.second);
        record.append_time = append_time_;
    }

    // About any earlier record, mostly of its own partition and mostly one that is a dead letter or may be; now and
    // then about one that is still to come.
    void decide() {
        auto partition = any_partition();
        const auto end = log_.end(partition);
        const auto near = std::max<std::int64_t>(0, end - 20);
        auto offset = chance(80) ? near + below(end - near + 1) : below(end + 2);
        if (decides_ > kDecides && !spoilt_.empty() && chance(80)) {
            const auto one = spoilt_.begin() + below(std::min<std::int64_t>(3, std::ssize(spoilt_)));
            std::tie(partition, offset) = *one;
            if (chance(15)) spoilt_.erase(one);
        }
        EventSketch event;
        if (chance(30)) {
            event.type = schemas::dead_letter::kDiscarded;
            const std::string note = "nobody's \xF0\x9F\x9A\x97";
            schemas::dead_letter::append(
                event.data, schemas::dead_letter::Discarded{
                                offset, chance(50) ? std::optional<std::string_view>(note) : std::nullopt});
        } else {
            event.type = schemas::dead_letter::kRedriven;
            const auto* letter = log_.find(partition, offset);
            const bool has_key = letter != nullptr && letter->key && letter->key->size() <= 256;
            const auto text = has_key && entities_.contains(*letter->key) ? sketch(*letter->key).text() : "{";
            schemas::dead_letter::append(event.data,
                                         schemas::dead_letter::Redriven{
                                             offset, chance(40) ? std::optional<std::string_view>(text) : std::nullopt,
                                             chance(50) ? std::optional<std::int64_t>(1 + below(3)) : std::nullopt});
        }
        if (chance(5)) event.data = R"({"offset":"1"})";
        auto text = event.text();
        // Its type spelt with an escape.
        if (chance(20)) text.replace(text.find("dead_letter"), 4, "d\\u0065ad");
        log_.append(partition, "decision", std::move(text), append_time_);
    }

    void spoil(FakeLog::Entry& record, EventSketch& event, std::int32_t& partition) {
        switch (below(14)) {
            case 0:
                record.value.reset();
                break;
            case 1:
                record.value = "";
                break;
            case 2:
                record.value->resize(static_cast<std::size_t>(below(std::ssize(*record.value))));
                break;
            case 3:
                record.value->insert(record.value->size() / 2, "\xFF\xC0");
                break;
            case 4:
                record.value = std::string(300, '[');
                break;
            case 5:
                record.key.reset();
                break;
            case 6:
                record.key = "somebody else";
                break;
            case 7:
                partition = any_partition();
                break;
            case 8:
                event.type = "com.example.stranger.v1";
                record.value = event.text();
                break;
            case 9:
                event.data = chance(50) ? "" : R"({"id":"\u0041","key":3})";
                record.value = event.text();
                break;
            case 10:
                event.time = append_time_ + schemas::kMaxAhead + std::chrono::microseconds(1);
                record.value = event.text();
                break;
            case 11:
                record.value =
                    EventSketch{schemas::kLogCreated, R"({"uuid":")" + std::string(kLogUuid) + "\"}", {}, {}}.text();
                break;
            case 12:
                record.value->insert(record.value->size() - 1, ",\"nul\":\"\\u0000\"");
                break;
            default:
                record.value->append(std::string(static_cast<std::size_t>(below(3'000)), ' ') + "\xE2\x82\xAC");
                break;
        }
    }

    std::mt19937_64 random_;
    bool counters_;
    int decides_;
    FakeLog log_;
    base::Timestamp append_time_{std::chrono::seconds(1'700'000'000)};
    std::map<std::string, std::pair<std::string_view, std::string>> first_data_;
    std::set<std::string> entities_;
    std::vector<std::pair<std::int32_t, std::int64_t>> spoilt_;  // where they stand, but for imported ones
    std::map<std::string, std::pair<FakeLog::Entry, std::int32_t>> imported_;
};

}  // namespace tidemark::tests
