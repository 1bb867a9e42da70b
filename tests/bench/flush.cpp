// bench-flush: what a flush of the counters stream costs, beside the statements it cannot do without.
//
// Five ways to bring the same kind of batch into tables of the same size, in turns, forwards and backwards:
//   flush     consumers::flush, as the consumer calls it: fence, decode, decide, fold, write, tally, notify, commit
//   keyed     the same with an idempotency key on every record
//   plain     decode, fold, write, commit: the same without offsets, without deduplication, without notifying
//   upserts   the two sorted UNNEST upserts alone, parameters ready made, on tables like the stream's own
//   simple    one sorted UNNEST upsert of (text, bigint): the plainest table of counters that there is
//
// The tables are made and filled by the caller (tests/bench/flushes.py): schema `counters`, and `plain_floor`,
// `upserts_floor` and `simple_floor` beside it. A flush that does not commit ends the program: no figure comes of it.

#include "consumers/flush.h"
#include "consumers/generation.h"
#include "consumers/offset_store.h"
#include "consumers/projections.h"
#include "infra/base/clock.h"
#include "infra/kafka/partitioner.h"
#include "infra/postgres/connection.h"
#include "schemas/counters.h"
#include "schemas/event.h"
#include "schemas/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace {

using namespace tidemark;

// The statements of consumers/counters.cpp.
constexpr pg::Statement kTotals{"floor_totals", R"(
insert into totals as t (key, value, count, updated_at)
select * from unnest($1::text[], $2::numeric[], $3::bigint[], $4::timestamptz[])
on conflict (key) do update set
    value = t.value + excluded.value,
    count = t.count + excluded.count,
    updated_at = greatest(t.updated_at, excluded.updated_at))"};

constexpr pg::Statement kWindows{"floor_windows", R"(
insert into windows as w (key, window_start, partition, value, count, min_offset, max_offset)
select * from unnest($1::text[], $2::timestamptz[], $3::integer[], $4::numeric[], $5::bigint[], $6::bigint[], $7::bigint[])
on conflict (key, window_start, partition) do update set
    value = w.value + excluded.value,
    count = w.count + excluded.count,
    min_offset = least(w.min_offset, excluded.min_offset),
    max_offset = greatest(w.max_offset, excluded.max_offset))"};

constexpr pg::Statement kSimple{"floor_simple", R"(
insert into simple as s (key, value) select * from unnest($1::text[], $2::bigint[])
on conflict (key) do update set value = s.value + excluded.value)"};

struct Options {
    std::string consumer_dsn;
    std::string floor_dsn;
    std::size_t table_keys = 100'000;  // rows that the tables hold: key-0 ...
    std::size_t keys = 10'000;         // distinct ones in a batch
    std::size_t events = 1;            // for each of them
    std::size_t rounds = 4;
};

std::size_t to_size(std::string_view text) {
    std::size_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size()) {
        throw std::invalid_argument("not a number: " + std::string(text));
    }
    return number;
}

Options read_options(int argc, char** argv) {
    Options options;
    if (argc % 2 == 0) throw std::invalid_argument("an option without a value");
    for (int i = 1; i < argc; i += 2) {
        const std::string_view name = argv[i];
        const std::string_view value = argv[i + 1];
        if (name == "--consumer-dsn") {
            options.consumer_dsn = value;
        } else if (name == "--floor-dsn") {
            options.floor_dsn = value;
        } else if (name == "--table-keys") {
            options.table_keys = to_size(value);
        } else if (name == "--keys") {
            options.keys = to_size(value);
        } else if (name == "--events") {
            options.events = to_size(value);
        } else if (name == "--rounds") {
            options.rounds = to_size(value);
        } else {
            throw std::invalid_argument("unknown option " + std::string(name));
        }
    }
    return options;
}

class Text final : public kafka::Record::Body {
public:
    Text(std::string key, std::string value) : key_(std::move(key)), value_(std::move(value)) {}
    [[nodiscard]] std::vector<kafka::Header> headers() const override { return {}; }
    [[nodiscard]] std::optional<std::string_view> header(const char*) const override { return std::nullopt; }
    [[nodiscard]] std::string_view key() const noexcept { return key_; }
    [[nodiscard]] std::string_view value() const noexcept { return value_; }

private:
    std::string key_;
    std::string value_;
};

double clock_seconds(clockid_t clock) {
    timespec at{};
    if (::clock_gettime(clock, &at) != 0) throw std::system_error(errno, std::generic_category(), "clock_gettime");
    return static_cast<double>(at.tv_sec) + static_cast<double>(at.tv_nsec) / 1e9;
}

// The clock of another process's CPU time, as clock_getcpuclockid makes it.
clockid_t cpu_clock_of(int pid) {
    clockid_t clock{};
    if (::clock_getcpuclockid(pid, &clock) != 0)
        throw std::runtime_error("no CPU clock of backend " + std::to_string(pid));
    return clock;
}

// One connection, and what its backend and we have used of the CPU.
struct Session {
    Session(const std::string& dsn, const std::string& schema, const char* name)
        : connection(connect(dsn, schema, name)) {
        backend = cpu_clock_of(connection.backend_pid());
    }

    static pg::Connection connect(const std::string& dsn, const std::string& schema, const char* name) {
        pg::SessionOptions options;
        options.application_name = name;
        options.search_path = schema;
        return {dsn, options};
    }

    pg::Connection connection;
    clockid_t backend{};
};

// Batches of random keys, and where each partition of the imagined log stands.
class Batches {
public:
    Batches(const Options& options, std::int32_t partitions)
        : options_(options), keys_(options.table_keys), ends_(static_cast<std::size_t>(partitions)) {
        if (options.keys > options.table_keys) throw std::invalid_argument("more keys in a batch than in the table");
        std::iota(keys_.begin(), keys_.end(), std::size_t{0});
        // Now, so that no record is from the future; a flush a second from here on, so that windows change as they do
        // live.
        at_ = schemas::window_start(base::SystemClock().now());
    }

    // What one flush would get after a second. The records live in here until the next call.
    const std::vector<std::vector<kafka::Record>>& next(bool with_identities) {
        at_ += std::chrono::seconds(1);
        chosen_.clear();
        for (std::size_t i = 0; i < options_.keys; ++i) {
            std::swap(keys_[i], keys_[std::uniform_int_distribution<std::size_t>(i, keys_.size() - 1)(random_)]);
            chosen_.push_back("key-" + std::to_string(keys_[i]));
        }
        parts_.clear();
        parts_.resize(ends_.size());
        for (std::size_t repeat = 0; repeat < options_.events; ++repeat) {
            for (const auto& key : chosen_)
                add(key, with_identities);
        }
        std::sort(chosen_.begin(), chosen_.end());
        return parts_;
    }

    void set_end(std::int32_t partition, std::int64_t offset) {
        ends_.at(static_cast<std::size_t>(partition)) = offset;
    }
    [[nodiscard]] const std::vector<std::string>& sorted_keys() const noexcept { return chosen_; }
    [[nodiscard]] schemas::Timestamp at() const noexcept { return at_; }
    [[nodiscard]] std::size_t events() const noexcept { return options_.keys * options_.events; }

private:
    void add(const std::string& key, bool with_identity) {
        data_.clear();
        schemas::counters::append(data_, {key, 1});
        std::string identity;
        if (with_identity) {
            const auto number = std::to_string(identities_++);
            const std::array<std::string_view, 3> parts{"bench", key, number};
            identity = schemas::idempotency_identity(parts);
        }
        const auto id = schemas::make_uuid7(at_);
        schemas::EventText event{id,           "/increment", schemas::counters::kIncremented, at_, std::nullopt,
                                 std::nullopt, data_};
        if (with_identity) event.idempotency_key = identity;
        std::string value;
        schemas::append_event(value, event);
        const auto partition = kafka::murmur2_partition(key, static_cast<std::int32_t>(ends_.size()));
        auto body = std::make_unique<Text>(key, std::move(value));
        kafka::Record record;
        record.partition = partition;
        record.offset = ends_.at(static_cast<std::size_t>(partition))++;
        record.append_time = at_;
        record.key = body->key();
        record.value = body->value();
        record.own(std::move(body));
        parts_.at(static_cast<std::size_t>(partition)).push_back(std::move(record));
    }

    const Options& options_;
    std::mt19937_64 random_{20'261'120};
    std::vector<std::size_t> keys_;
    std::vector<std::string> chosen_;
    std::vector<std::int64_t> ends_;
    std::vector<std::vector<kafka::Record>> parts_;
    std::string data_;
    std::uint64_t identities_ = 0;
    schemas::Timestamp at_{};
};

class Bench {
public:
    explicit Bench(const Options& options)
        : options_(options),
          projection_(consumers::find_projection("counters")),
          live_(find_live(options.consumer_dsn)),
          store_(live_.target.generation, "bench"),
          flush_(options.consumer_dsn, live_.schema, "bench flush"),
          plain_(options.floor_dsn, "plain_floor", "bench plain"),
          upserts_(options.floor_dsn, "upserts_floor", "bench upserts"),
          simple_(options.floor_dsn, "simple_floor", "bench simple"),
          batches_(options, live_.target.partitions) {
        std::vector<std::int32_t> partitions(static_cast<std::size_t>(live_.target.partitions));
        std::iota(partitions.begin(), partitions.end(), 0);
        for (const auto& claim : store_.claim(flush_.connection, partitions)) {
            // The first record of a partition is the log's identity, which is of no interest here: a gap.
            claims_[claim.partition] = claim;
            batches_.set_end(claim.partition, std::max<std::int64_t>(claim.next_offset, 1));
        }
    }

    void run() {
        const std::array<std::function<void()>, 5> ways{[this] { flush(false); }, [this] { flush(true); },
                                                        [this] { plain(); }, [this] { upserts(); },
                                                        [this] { simple(); }};
        // The first time prepares statements and brings the tables' pages into memory.
        for (const auto& way : ways)
            way();
        quiet_ = false;
        std::fputs("{\"runs\":[", stdout);
        for (std::size_t round = 0; round < options_.rounds; ++round) {
            for (const auto& way : ways)
                way();
            for (auto way = ways.rbegin(); way != ways.rend(); ++way)
                (*way)();
        }
        std::printf("],\"flushed\":%zu,\"plain\":%zu,\"upserts\":%zu,\"simple\":%zu,\"flushes\":%zu}\n",
                    flushed_events_, plain_events_, upserted_events_, simple_events_, flushes_);
    }

private:
    consumers::Generation find_live(const std::string& dsn) const {
        pg::Connection connection(dsn, pg::SessionOptions{});
        auto live = consumers::find_live(connection, *projection_);
        if (!live) throw std::runtime_error("there are no tables: migrate first");
        return *std::move(live);
    }

    void flush(bool with_identities) {
        const auto& parts = batches_.next(with_identities);
        consumers::Batch batch;
        for (std::size_t partition = 0; partition < parts.size(); ++partition) {
            const auto& records = parts[partition];
            if (records.empty()) continue;
            const auto& claim = claims_.at(static_cast<std::int32_t>(partition));
            batch.parts.push_back({claim.partition, claim.epoch, claim.next_offset, records.back().offset + 1,
                                   records.front().offset - claim.next_offset, claim.log_time, batches_.at(), records});
        }
        consumers::FlushReport report;
        measure(with_identities ? "keyed" : "flush", flush_, [&] {
            report = consumers::flush(flush_.connection, live_.target, store_, batch);
            return report.rows;
        });
        if (report.outcome != consumers::Flushed::committed) throw std::runtime_error("not committed: " + report.error);
        if (report.applied != static_cast<std::int64_t>(batches_.events()) || report.entities != options_.keys) {
            throw std::runtime_error(
                "the flush applied " + std::to_string(report.applied) + " of " + std::to_string(batches_.events()) +
                " events" + (report.parked.empty() ? "" : ", parked: " + std::string(report.parked.begin()->first)));
        }
        for (const auto& part : batch.parts) {
            auto& claim = claims_.at(part.partition);
            claim.next_offset = part.next;
            claim.log_time = report.log_times.at(part.partition);
        }
        flushed_events_ += batches_.events();
        flushes_ += 1;
    }

    void plain() {
        const auto& parts = batches_.next(false);
        measure("plain", plain_, [&] {
            auto tx = plain_.connection.begin();
            const auto fold = projection_->begin();
            for (const auto& records : parts) {
                for (const auto& record : records) {
                    const auto event = schemas::read_event(reader_, *record.value);
                    if (!event) throw std::runtime_error(describe(event.violations()));
                    const consumers::LoggedEvent logged{
                        *event, {record.partition, record.offset}, *event->time, record.append_time};
                    std::string_view entity;
                    if (fold->read(logged, entity) || entity != *record.key) throw std::runtime_error("not folded");
                    fold->keep();
                }
            }
            const auto rows = fold->write(tx, consumers::WindowsFrom{}).rows;
            tx.commit();
            return rows;
        });
        plain_events_ += batches_.events();
    }

    void upserts() {
        batches_.next(false);
        const auto events = static_cast<std::int64_t>(options_.events);
        const auto window = schemas::window_start(batches_.at());
        pg::Params totals;
        pg::Params windows;
        {
            std::array<pg::Array, 4> t;
            std::array<pg::Array, 7> w;
            for (const auto& key : batches_.sorted_keys()) {
                const auto digits = std::to_string(events);
                t[0].add(key);
                t[1].add_numeric(digits);
                t[2].add(events);
                t[3].add(batches_.at());
                w[0].add(key);
                w[1].add(window);
                w[2].add(std::int64_t{kafka::murmur2_partition(key, live_.target.partitions)});
                w[3].add_numeric(digits);
                w[4].add(events);
                w[5].add(std::int64_t{1});
                w[6].add(events);
            }
            for (auto& array : t)
                totals.add(std::move(array));
            for (auto& array : w)
                windows.add(std::move(array));
        }
        measure("upserts", upserts_, [&] {
            auto tx = upserts_.connection.begin();
            tx.run(kTotals, totals);
            tx.run(kWindows, windows);
            tx.commit();
            return 2 * options_.keys;
        });
        upserted_events_ += batches_.events();
    }

    void simple() {
        batches_.next(false);
        pg::Params params;
        {
            pg::Array keys;
            pg::Array values;
            for (const auto& key : batches_.sorted_keys()) {
                keys.add(key);
                values.add(static_cast<std::int64_t>(options_.events));
            }
            params.add(std::move(keys)).add(std::move(values));
        }
        measure("simple", simple_, [&] {
            auto tx = simple_.connection.begin();
            tx.run(kSimple, params);
            tx.commit();
            return options_.keys;
        });
        simple_events_ += batches_.events();
    }

    template <typename Work>
    void measure(const char* way, const Session& session, Work work) {
        const auto began = clock_seconds(CLOCK_MONOTONIC);
        const auto client = clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
        const auto backend = clock_seconds(session.backend);
        const std::size_t rows = work();
        const auto backend_used = clock_seconds(session.backend) - backend;
        const auto client_used = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - client;
        const auto took = clock_seconds(CLOCK_MONOTONIC) - began;
        if (quiet_) return;
        std::printf("%s{\"way\":\"%s\",\"seconds\":%.6f,\"client\":%.6f,\"backend\":%.6f,\"rows\":%zu}",
                    std::exchange(separator_, ","), way, took, client_used, backend_used, rows);
    }

    const Options& options_;
    const consumers::Projection* projection_;
    consumers::Generation live_;
    consumers::OffsetStore store_;
    Session flush_;
    Session plain_;
    Session upserts_;
    Session simple_;
    Batches batches_;
    std::map<std::int32_t, consumers::Claim> claims_;
    schemas::json::Reader reader_;
    bool quiet_ = true;
    const char* separator_ = "";
    std::size_t flushed_events_ = 0;
    std::size_t plain_events_ = 0;
    std::size_t upserted_events_ = 0;
    std::size_t simple_events_ = 0;
    std::size_t flushes_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
    try {
        const Options options = read_options(argc, argv);
        Bench(options).run();
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench-flush: %s\n", error.what());
        return 1;
    }
}
