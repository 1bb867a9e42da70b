#include "tests/unit/consumers/simulation.h"

#include "consumers/stream_state.h"
#include "tests/unit/consumers/simulated_log.h"
#include "tests/unit/consumers/simulated_store.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <ostream>
#include <sstream>
#include <utility>
#include <vector>

namespace tidemark::tests {

namespace simulated {

namespace {

using consumers::Batch;
using consumers::Claim;
using consumers::Flushed;
using consumers::StreamState;
using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr int kGenerations = 2;
constexpr int kMaxConsumers = 5;  // of both

// The server's and the group's time-outs, a tenth or less of the real ones, in proportion to the options below.
constexpr Time kLockTimeout = 40 * kMillisecond;
constexpr Time kIdleInTransaction = 150 * kMillisecond;
constexpr Time kSession = 100 * kMillisecond;
constexpr Time kClockSkew = 200;

// From the end of all faults: everything is caught up, and after stop() given back, within this time and so many steps.
constexpr Time kDrain = 3'000 * kMillisecond;
constexpr std::uint64_t kMaxSteps = 50'000;
// A poll that waits for nothing, again and again, while nothing comes.
constexpr int kMaxIdleSpins = 40;

/// One member's view of the log, with the promises of kafka::RecordSource.
struct Source {
    struct Event {
        bool revoked = false;  // otherwise assigned
        bool lost = false;
    };
    std::deque<Event> events;
    Mask granted = 0;  // as the group sees it: from telling until answered
    bool revoking = false;
    bool unanswered = false;
    Mask assigned = 0;
    Table<std::int64_t, kMaxPartitions> position;
    Table<std::int64_t, kMaxPartitions> end_told;
    Table<std::int64_t, kMaxPartitions> stale_end;  // only told by a mutation; 0: none
};

enum class Op : std::uint8_t { none, claim, flush, resolve };

/// One process: a real state machine, and StreamProcessor's part played by the simulation.
struct Consumer {
    int number = 0;
    std::size_t generation = 0;
    std::optional<StreamState> state;  // none: not running
    Source source;
    Time wake = 0;  // when it next does something; when it restarts
    Time frozen_until = 0;
    bool expelled = false;  // the group gave up on it
    bool thawed_with_records = false;
    bool leaving = false;
    bool lost = false;  // was told so and has not claimed since: may write nothing
    // What it has heard of its generation's place: of which swap, and whether it follows the other one since.
    std::optional<int> swaps;
    bool follows = false;
    Time next_look = 0;
    Time clock_error = 0;
    int spins = 0;

    Op op = Op::none;
    int stage = 0;
    Time began = 0;
    Time waits_since = 0;
    bool late_commit = false;  // the commit in doubt was still under way
    int tx = -1;
    Batch batch;
    Flushed outcome = Flushed::failed;
    std::vector<Claim> claims;

    struct Answer {
        Time at = 0;
        Timestamp asked{};
        Table<std::int64_t, kMaxPartitions> ends;
    };
    std::deque<Answer> answers;
    Timestamp newest_asked{};  // for a mutation
};

class Simulation {
public:
    Simulation(std::uint64_t seed, Mutation mutation, std::ostream* trace)
        : random_(seed),
          mutation_(mutation),
          trace_(trace),
          partitions_(2 + random_.below(kMaxPartitions - 1)),
          generations_(random_.chance(50) ? kGenerations : 1) {
        options_.limits.records = static_cast<std::size_t>(random_.chance(50) ? random_.between(1, 6) : 1'000);
        options_.limits.bytes = random_.chance(20) ? 300 : 1'000'000;
        options_.limits.interval = milliseconds(random_.between(5, 60));
        options_.limits.longest = 3 * options_.limits.interval;
        options_.limits.early = milliseconds(3);
        options_.poll = milliseconds(random_.between(4, 15));
        options_.retry_first = milliseconds(2);
        options_.retry_cap = milliseconds(random_.between(5, 60));
        options_.fence_wait = milliseconds(random_.between(5, 80));
        options_.wanted_for = milliseconds(40);
        // Each run has its own mix: what every run contains hides what only some contain.
        faults_ = static_cast<unsigned>(random_.next());
        pace_ = random_.between(500, 6'000);
        faults_end_ = random_.between(200, 900) * kMillisecond;
        most_entries_ = random_.below(60) + 5;
        for (std::size_t generation = 0; generation < generations_; ++generation)
            stores_.emplace_back(log_, partitions_, mutation, random_, run_);
        const auto of_live = 2 + random_.below(2);
        const auto of_other = generations_ > 1 ? 1 + random_.below(2) : 0;
        consumers_ = std::vector<Consumer>(static_cast<std::size_t>(of_live + of_other));
        int number = 0;
        for (auto& consumer : consumers_) {
            consumer.number = number++;
            consumer.generation = consumer.number < of_live ? 0 : 1;
            consumer.wake = random_.between(0, 20 * kMillisecond);
        }
        for (auto left = random_.below(10); left > 0; --left)
            append();
    }

    Run run() {
        try {
            play();
        } catch (const Violation& violation) {
            run_.violation = text(violation.what(), " (at ", now_, " us)");
        }
        return run_;
    }

private:
    enum Fault : unsigned {
        kFreeze = 1U,
        kCrash = 2U,
        kLeave = 4U,
        kRebalance = 8U,
        kForeignClaim = 16U,
        kOutage = 32U,
        kInDoubt = 64U,
        kBrokenConnection = 128U,
        kLostAnswer = 256U,
        kSlow = 512U,
        kClockJump = 1'024U,
        kEarlyAssign = 2'048U,
        kRedelivery = 4'096U,
        kSwap = 8'192U,
    };

    [[nodiscard]] bool has(Fault fault) const { return !draining_ && (faults_ & fault) != 0; }
    void met(Met what) { run_.met[static_cast<std::size_t>(what)] += 1; }

    template <typename... Parts>
    void tell(const Consumer* consumer, const Parts&... parts) {
        if (trace_ == nullptr) return;
        *trace_ << now_ << ' ';
        if (consumer != nullptr) *trace_ << 'c' << consumer->number << ' ';
        ((*trace_ << parts), ...);
        *trace_ << '\n';
    }

    Time latency() {
        if (has(kSlow) && random_.chance(15)) return random_.between(kMillisecond, 60 * kMillisecond);
        return random_.between(50, 800);
    }

    // The loop: whoever is next, until everything is drained and given back.
    void play() {
        Time world_at = 0;
        while (true) {
            auto next = std::min(world_at, rebalance_at_);
            for (const auto& store : stores_)
                next = std::min(next, store.next_end());
            for (const auto& consumer : consumers_)
                next = std::min(next, consumer.wake);
            now_ = std::max(now_, next);
            if (++run_.steps > kMaxSteps) throw Violation("it goes on and on: " + standing());
            if (!draining_ && now_ >= faults_end_) drain();
            if (draining_ && !stopping_ && caught_up()) {
                if (generations_ > 1 && !swapped_last_) {
                    swap_last();
                } else {
                    stop_all();
                }
            }
            if (stopping_ && all_stopped()) break;
            if (draining_ && now_ > drain_by_) throw Violation("it is stuck: " + standing());
            const auto ending = std::find_if(stores_.begin(), stores_.end(),
                                             [this](const Store& store) { return now_ >= store.next_end(); });
            if (ending != stores_.end()) {
                ending->end_due(now_);
            } else if (now_ >= rebalance_at_) {
                rebalance();
            } else if (now_ >= world_at) {
                happen();
                world_at = now_ + random_.between(1, 2 * pace_);
            } else {
                const auto consumer =
                    std::min_element(consumers_.begin(), consumers_.end(),
                                     [](const Consumer& a, const Consumer& b) { return a.wake < b.wake; });
                act(*consumer);
            }
            if (generations_ > 1) compare_generations();
        }
        for (auto& store : stores_) {
            for (int partition = 0; partition < partitions_; ++partition)
                store.check(partition);
            if (store.sums() != log_.sums()) throw Violation("the sums are not those of the log");
            if (store.locked(~0U)) throw Violation("a lock is held though everybody left");
        }
    }

    // The generations.

    Store& store_of(const Consumer& consumer) { return stores_[consumer.generation]; }
    [[nodiscard]] const Store& store_of(const Consumer& consumer) const { return stores_[consumer.generation]; }
    [[nodiscard]] std::vector<std::int64_t> progress_of_live() const {
        std::vector<std::int64_t> next;
        for (int partition = 0; partition < partitions_; ++partition)
            next.push_back(stores_[live_].row(partition).next);
        return next;
    }

    // As Standstill does: the live generation's writers wait until the other one has come up, or for a while.
    void begin_standstill() {
        if (generations_ == 1 || stands_until_ != 0 || stores_[live_].locked(~0U)) return;
        tell(nullptr, "standstill");
        stands_until_ = now_ + random_.between(kMillisecond, 80 * kMillisecond);
        for (auto& consumer : consumers_) {
            if (!consumer.state || consumer.generation == live_) continue;
            consumer.state->wanted(steady(now_));
            consumer.next_look = now_;
        }
    }

    void swap() {
        met(Met::swapped);
        for (auto& store : stores_)
            store.claim(~0U);
        live_ = 1 - live_;
        swaps_ += 1;
        stands_until_ = 0;
        tell(nullptr, "swapped: ", live_, " is live");
    }

    // Once more when all is quiet, so that nothing but the records that come then tells anybody.
    void swap_last() {
        if (std::any_of(stores_.begin(), stores_.end(), [](const Store& store) { return store.locked(~0U); })) return;
        swapped_last_ = true;
        drain_by_ = now_ + kDrain;
        swap();
        for (int left = 3; left > 0; --left)
            append();
    }

    void compare_generations() {
        const auto& live = stores_[live_];
        const auto& other = stores_[1 - live_];
        bool equal = true;
        for (int partition = 0; partition < partitions_; ++partition) {
            const auto leads = live.row(partition).next - other.row(partition).next;
            if (leads < 0) throw Violation(text("in partition ", partition, " the follower is ahead of the live one"));
            equal = equal && leads == 0;
        }
        if (stands_until_ == 0) return;
        if (equal && !other.locked(~0U)) {
            swap();
        } else if (draining_ || now_ >= stands_until_) {
            met(Met::standstill_late);
            stands_until_ = 0;
        }
    }

    // What StreamProcessor asks the registry: whether there was a swap that it has not heard of.
    bool check_place(Consumer& consumer) const {
        if (consumer.swaps == swaps_) return false;
        consumer.swaps = swaps_;
        consumer.follows = consumer.generation != live_;
        return true;
    }

    void move(Consumer& consumer) {
        auto& state = *consumer.state;
        tell(&consumer, "moved while ", state.phase());
        if (state.phase() == std::string_view("resolving")) met(Met::moved_in_doubt);
        state.moved(steady(now_));
        if (state.buffer().records() > 0) met(Met::moved_with_records);
    }

    void look_at_leader(Consumer& consumer) {
        auto& state = *consumer.state;
        if (!consumer.follows || !state.consuming() || now_ < consumer.next_look || now_ < outage_until_) return;
        consumer.next_look = now_ + random_.between(kMillisecond, 10 * kMillisecond);
        if (mutation_ != Mutation::look_without_place && check_place(consumer)) return move(consumer);
        if (mutation_ != Mutation::follower_ignores_leader) state.follow(progress_of_live());
        if (state.buffer().records() > 0 && state.batch().parts.empty()) met(Met::follower_waited);
    }

    // What the world does to the consumers.

    void append() {
        const auto partition = random_.below(partitions_);
        Entry entry;
        entry.appended = now_;
        entry.record = !random_.chance(15);
        if (entry.record) {
            entry.identity = static_cast<char>(random_.chance(40) ? 0 : 1 + random_.below(kIdentities));
            entry.data = random_.chance(20) ? 1 : 0;
            entry.key = random_.below(kKeys);
            entry.poison = random_.chance(15);
            if ((faults_ & kClockJump) != 0 && random_.chance(20)) {
                const auto jump = hours(random_.chance(25) ? -random_.between(1, 30) : random_.between(1, 20));
                if (jump < hours(0)) met(Met::clock_back);
                broker_clock_ += jump;
            }
            entry.append_time = wall(now_) + broker_clock_;
        } else {
            met(Met::gap);
        }
        if (log_.append(partition, entry)) met(Met::beyond_horizon);
        switch (log_.at(partition, log_.end(partition) - 1).fate) {
            case Fate::duplicate:
                met(Met::duplicate);
                break;
            case Fate::conflict:
                met(Met::conflict);
                break;
            case Fate::poison:
                met(Met::poison);
                break;
            case Fate::none:
            case Fate::applied:
                break;
        }
        appended_ += 1;
    }

    void happen() {
        auto& consumer = random_.pick(consumers_);
        ask_log_end(consumer);
        give_out(has(kEarlyAssign) && random_.chance(20));
        if (draining_) return;
        switch (random_.below(16)) {
            case 0:
            case 1:
            case 2:
            case 3:
                for (auto left = 1 + random_.below(4); left > 0 && appended_ < most_entries_; --left)
                    append();
                break;
            case 4:
                if (consumer.state) consumer.state->wanted(steady(now_));
                break;
            case 5:
                if (has(kFreeze)) freeze(consumer);
                break;
            case 6:
                if (has(kCrash)) crash(consumer);
                break;
            case 7:
                if (has(kLeave)) leave(consumer);
                break;
            case 8:
                if (has(kRebalance)) rebalance_at_ = std::min(rebalance_at_, now_);
                break;
            case 9:
                if (auto& store = store_of(consumer); has(kForeignClaim) && random_.chance(40) && !store.locked(~0U)) {
                    tell(nullptr, "foreign claim");
                    met(Met::foreign_claim);
                    store.claim(~0U);
                }
                break;
            case 10:
                if (has(kOutage) && random_.chance(40)) {
                    tell(nullptr, "outage");
                    met(Met::outage);
                    outage_until_ = now_ + random_.between(kMillisecond, 120 * kMillisecond);
                }
                break;
            case 11:
            case 12:
                if (has(kSwap)) begin_standstill();
                break;
            default:
                break;
        }
    }

    void ask_log_end(Consumer& consumer) {
        if (!consumer.state || consumer.answers.size() > 4) return;
        Consumer::Answer answer;
        answer.at = now_ + random_.between(0, 5 * kMillisecond);
        answer.asked = wall(now_ + consumer.clock_error - kClockSkew);
        for (int partition = 0; partition < partitions_; ++partition) {
            answer.ends[partition] = log_.end(partition);
        }
        consumer.answers.push_back(answer);
    }

    void freeze(Consumer& consumer) {
        if (!consumer.state || consumer.frozen_until > now_) return;
        consumer.frozen_until = now_ + random_.between(5, 400) * kMillisecond;
        consumer.wake = std::max(consumer.wake, consumer.frozen_until);
        consumer.thawed_with_records = !consumer.state->buffer().empty();
        if (random_.chance(60)) rebalance_at_ = std::min(rebalance_at_, now_ + kSession);
        tell(&consumer, "frozen until ", consumer.frozen_until);
    }

    void crash(Consumer& consumer) {
        if (!consumer.state) return;
        tell(&consumer, "crash");
        if (consumer.tx != -1) {
            auto& store = store_of(consumer);
            if (store.is_open(consumer.tx)) {
                met(consumer.stage == 2 ? Met::crash_in_commit : Met::crash_in_transaction);
                if (consumer.stage == 2 && random_.chance(50)) {
                    store.leave_undecided(consumer.tx, now_ + random_.between(0, 100 * kMillisecond),
                                          random_.chance(50));
                } else {
                    store.idle_until(consumer.tx, now_ + random_.between(0, kIdleInTransaction));
                }
            }
            store.forget(consumer.tx);
        }
        go_down(consumer, random_.between(0, 200 * kMillisecond), kSession);
    }

    void leave(Consumer& consumer) {
        if (!consumer.state || consumer.leaving) return;
        tell(&consumer, "is stopped");
        consumer.leaving = true;
        if (consumer.state->buffer().records() > 0) met(Met::stopped_with_records);
        consumer.state->stop();
    }

    void go_down(Consumer& consumer, Time down_for, Time noticed_after) {
        const auto number = consumer.number;
        const auto generation = consumer.generation;
        consumer = {};
        consumer.number = number;
        consumer.generation = generation;
        consumer.wake = stopping_ ? kNever : now_ + down_for;
        if (!stopping_) rebalance_at_ = std::min(rebalance_at_, now_ + noticed_after);
    }

    void start(Consumer& consumer) {
        tell(&consumer, "starts");
        auto options = options_;
        options.seed = random_.next();
        consumer.state.emplace(options);
        consumer.clock_error = random_.between(-kClockSkew, kClockSkew);
        rebalance_at_ = std::min(rebalance_at_, now_ + random_.between(0, 5 * kMillisecond));
        consumer.wake = now_ + 1;
    }

    // The group.

    void rebalance() {
        rebalance_at_ = kNever;
        for (std::size_t generation = 0; generation < generations_; ++generation)
            rebalance(generation);
        give_out(false);
    }

    void rebalance(std::size_t generation) {
        std::vector<Consumer*> members;
        for (auto& consumer : consumers_) {
            auto& source = consumer.source;
            if (!consumer.state || consumer.generation != generation) continue;
            wanted_[consumer.number].reset();
            const bool frozen = consumer.frozen_until > now_;
            if (!source.events.empty() && !source.events.back().revoked) {
                source.events.pop_back();  // it never heard of that one
                source.granted = 0;
            }
            if (source.granted != 0 && !source.revoking) {
                source.revoking = true;
                source.events.push_back({true, frozen || (!draining_ && random_.chance(25))});
            }
            if (consumer.leaving) continue;
            consumer.expelled = frozen && !draining_ && random_.chance(80);
            if (!consumer.expelled) members.push_back(&consumer);
        }
        if (members.empty()) return;
        for (auto* member : members)
            wanted_[member->number] = 0;
        for (int partition = 0; partition < partitions_; ++partition) {
            auto& member = *random_.pick(members);
            *wanted_[member.number] |= bit(partition);
        }
    }

    // Tells members what they own, once those who had it answered; `early`: once the group is tired of waiting for
    // that.
    void give_out(bool early) {
        for (auto& consumer : consumers_) {
            auto& wanted = wanted_[consumer.number];
            auto& source = consumer.source;
            if (!wanted || !consumer.state || source.granted != 0 || !source.events.empty() || source.unanswered)
                continue;
            Mask others = 0;
            for (const auto& other : consumers_) {
                if (&other != &consumer && other.generation == consumer.generation) others |= other.source.granted;
            }
            if ((others & *wanted) != 0) {
                if (!early) continue;
                met(Met::two_owners);
            }
            source.granted = *wanted;
            source.events.push_back({false, false});
            wanted.reset();
        }
    }

    // What a consumer does.

    void act(Consumer& consumer) {
        if (!consumer.state) {
            start(consumer);
            return;
        }
        if (consumer.expelled) {
            consumer.expelled = false;
            rebalance_at_ = std::min(rebalance_at_, now_ + random_.between(kMillisecond, 10 * kMillisecond));
        }
        switch (consumer.op) {
            case Op::none:
                step(consumer);
                break;
            case Op::claim:
                go_on_claiming(consumer);
                break;
            case Op::flush:
                go_on_flushing(consumer);
                break;
            case Op::resolve:
                go_on_resolving(consumer);
                break;
        }
        if (consumer.state) check_beliefs(consumer);
    }

    void start_op(Consumer& consumer, Op op) {
        consumer.op = op;
        consumer.stage = 0;
        consumer.began = now_;
        consumer.waits_since = 0;
        consumer.spins = 0;
        consumer.wake = now_ + latency();
    }

    void end_op(Consumer& consumer) {
        consumer.op = Op::none;
        consumer.wake = now_ + random_.between(10, 100);
    }

    void step(Consumer& consumer) {
        auto& state = *consumer.state;
        while (!consumer.answers.empty() && consumer.answers.front().at <= now_) {
            const auto& answer = consumer.answers.front();
            consumer.newest_asked = answer.asked;
            state.log_end(answer.asked, std::span(answer.ends.items.data(), static_cast<std::size_t>(partitions_)));
            consumer.answers.pop_front();
        }
        look_at_leader(consumer);
        const auto step = state.next(steady(now_));
        switch (step.what) {
            case StreamState::Do::poll:
                poll(consumer, step.timeout);
                break;
            case StreamState::Do::claim:
                tell(&consumer, "claim");
                start_op(consumer, Op::claim);
                break;
            case StreamState::Do::flush:
                start_flush(consumer);
                break;
            case StreamState::Do::resolve:
                tell(&consumer, "resolve");
                start_op(consumer, Op::resolve);
                break;
            case StreamState::Do::assign:
                met(Met::narrowed);
                tell(&consumer, "assign");
                read_on(consumer, state.reading());
                consumer.wake = now_ + random_.between(10, 100);
                break;
            case StreamState::Do::unassign:
                tell(&consumer, "unassign");
                state.unassigned();
                consumer.source = {};
                consumer.lost = false;
                consumer.wake = now_ + random_.between(10, 200);
                give_out(false);
                break;
            case StreamState::Do::finished:
                if (!consumer.leaving) throw Violation("a consumer finished that nobody stopped");
                tell(&consumer, "finished");
                go_down(consumer, random_.between(0, 100 * kMillisecond), 0);
                break;
        }
    }

    void poll(Consumer& consumer, milliseconds timeout) {
        auto& state = *consumer.state;
        auto& source = consumer.source;
        if (timeout < milliseconds(0) || timeout > options_.poll + milliseconds(20)) {
            throw Violation(text("a poll of ", timeout.count(), " ms"));
        }
        if (!source.events.empty()) {
            const auto event = source.events.front();
            source.events.pop_front();
            tell_of_group(consumer, event);
            consumer.wake = now_ + random_.between(10, 100);
            return;
        }
        bool got = false;
        for (auto left = 1 + random_.below(6); left > 0; --left) {
            if (source.unanswered || state.paused(steady(now_)) || !take(consumer)) break;
            got = true;
        }
        if (got) {
            consumer.spins = 0;
            consumer.wake = now_ + random_.between(10, 300);
            return;
        }
        if (timeout == milliseconds(0) && ++consumer.spins > kMaxIdleSpins)
            throw Violation("a consumer spins instead of waiting");
        if (timeout > milliseconds(0)) consumer.spins = 0;
        consumer.wake = now_ + std::max<Time>(50, std::chrono::duration_cast<microseconds>(timeout).count());
    }

    void tell_of_group(Consumer& consumer, const Source::Event& event) {
        auto& state = *consumer.state;
        auto& source = consumer.source;
        source.unanswered = true;
        std::vector<std::int32_t> partitions;
        for (int partition = 0; partition < partitions_; ++partition) {
            if ((source.granted & bit(partition)) != 0) partitions.push_back(partition);
        }
        if (!event.revoked) {
            tell(&consumer, "assigned ", source.granted);
            if (partitions.empty()) source.unanswered = false;  // answered with nothing, at once
            state.polled(kafka::Assigned{std::move(partitions)}, steady(now_));
            return;
        }
        tell(&consumer, event.lost ? "lost " : "revoked ", source.granted);
        if (state.buffer().records() > 0) met(event.lost ? Met::lost_with_records : Met::revoked_with_records);
        consumer.lost = event.lost;
        const bool lost = event.lost && mutation_ != Mutation::keep_buffer_on_loss;
        state.polled(kafka::Revoked{std::move(partitions), lost}, steady(now_));
    }

    // Reads just these, none before where the buffer goes on.
    void read_on(Consumer& consumer, const std::vector<kafka::Start>& starts) {
        auto& source = consumer.source;
        source.assigned = 0;
        for (const auto& [partition, offset] : starts) {
            if ((source.granted & bit(partition)) == 0)
                throw Violation("a partition is read that the group did not give");
            if (consumer.state->buffer().parts().at(partition).next != offset)
                throw Violation("a partition is read from elsewhere than its buffer ends");
            source.assigned |= bit(partition);
            source.position[partition] = offset;
            source.end_told[partition] = 0;
        }
    }

    // One record or end of a partition, from any partition that has one.
    bool take(Consumer& consumer) {
        auto& source = consumer.source;
        std::vector<int> ready;
        for (int partition = 0; partition < partitions_; ++partition) {
            if ((source.assigned & bit(partition)) == 0) continue;
            const auto end = log_.end(partition);
            if (source.position[partition] < end || source.end_told[partition] < end) ready.push_back(partition);
        }
        if (ready.empty()) return false;
        const auto partition = random_.pick(ready);
        if (const auto stale = std::exchange(source.stale_end[partition], 0); stale > 0) {
            consumer.state->polled(kafka::EndOfPartition{partition, stale}, steady(now_));
            return true;
        }
        auto& position = source.position[partition];
        if (has(kRedelivery) && position > 0 && random_.chance(5)) {
            met(Met::redelivered);
            position -= random_.between(1, std::min<std::int64_t>(position, 3));
        }
        position = log_.next_record(partition, position);
        if (position == log_.end(partition)) {
            source.end_told[partition] = position;
            consumer.state->polled(kafka::EndOfPartition{partition, position}, steady(now_));
            return true;
        }
        kafka::Record record;
        record.partition = partition;
        record.offset = position;
        record.append_time = log_.at(partition, position).append_time;
        record.value = "value";
        consumer.state->polled(std::move(record), steady(now_));
        ++position;
        return true;
    }

    // Whether the rows are free. While they are not, the operation waits, and fails after the lock time-out.
    enum class Locks : std::uint8_t { free, wait, time_out };
    Locks wait_for(Consumer& consumer, Mask partitions) {
        const bool stands = stands_until_ != 0 && consumer.generation == live_;
        if (!stands && !store_of(consumer).locked(partitions, consumer.tx)) return Locks::free;
        if (consumer.waits_since == 0) consumer.waits_since = now_;
        if (now_ - consumer.waits_since >= kLockTimeout) return Locks::time_out;
        consumer.wake = now_ + random_.between(100, 2 * kMillisecond);
        return Locks::wait;
    }

    [[nodiscard]] Mask mask(const Consumer& consumer) const {
        Mask partitions = 0;
        for (const auto partition : consumer.state->partitions())
            partitions |= bit(partition);
        return partitions;
    }

    void go_on_claiming(Consumer& consumer) {
        auto& state = *consumer.state;
        const auto partitions = mask(consumer);
        if (consumer.stage == 0) {
            if (now_ < outage_until_) return fail_claim(consumer);
            switch (wait_for(consumer, partitions)) {
                case Locks::wait:
                    return;
                case Locks::time_out:
                    if (stands_until_ != 0) return fail_claim(consumer);
                    store_of(consumer).terminate_holders(partitions);
                    break;
                case Locks::free:
                    break;
            }
            static_cast<void>(check_place(consumer));
            consumer.claims = store_of(consumer).claim(partitions);
            consumer.stage = 1;
            consumer.wake = now_ + latency();
            return;
        }
        if (has(kLostAnswer) && random_.chance(30)) {
            met(Met::claim_answer_lost);
            return fail_claim(consumer);
        }
        if (check_place(consumer)) return fail_claim(consumer);
        if (mutation_ == Mutation::moved_goes_on_blindly) {
            for (auto& claim : consumer.claims) {
                const auto& parts = state.buffer().parts();
                if (const auto part = parts.find(claim.partition); part != parts.end())
                    claim.next_offset = part->second.from;
            }
        }
        const bool goes_on = state.goes_on(consumer.claims);
        const auto starts = state.claimed(consumer.claims, steady(now_));
        if (consumer.follows && mutation_ != Mutation::follower_ignores_leader)
            state.follow(std::vector<std::int64_t>{});
        consumer.next_look = now_;
        auto& source = consumer.source;
        if (goes_on) {
            if (source.unanswered) throw Violation("what is buffered is not what goes on");
            if (!starts.empty()) read_on(consumer, starts);
            met(Met::went_on);
            consumer.thawed_with_records = false;
            tell(&consumer, "goes on with ", partitions);
            return end_op(consumer);
        }
        const auto before = std::exchange(source.assigned, 0);
        if (starts.size() != consumer.claims.size()) throw Violation("not everything that was claimed is read");
        for (const auto& [partition, offset] : starts) {
            if ((source.granted & bit(partition)) == 0)
                throw Violation("a partition is read that the group did not give");
            if (mutation_ == Mutation::stale_end_of_partition && (before & bit(partition)) != 0) {
                source.stale_end[partition] = source.position[partition];
            }
            source.assigned |= bit(partition);
            source.position[partition] = offset;
            source.end_told[partition] = 0;
        }
        source.unanswered = false;
        consumer.lost = false;
        consumer.thawed_with_records = false;
        tell(&consumer, "claimed ", partitions);
        end_op(consumer);
    }

    void fail_claim(Consumer& consumer) {
        tell(&consumer, "claim failed");
        consumer.state->claim_failed(steady(now_));
        end_op(consumer);
    }

    void start_flush(Consumer& consumer) {
        if (consumer.lost) throw Violation("records of lost partitions are written");
        consumer.batch = consumer.state->batch();
        for (auto& part : consumer.batch.parts) {
            if ((consumer.source.granted & bit(part.partition)) == 0)
                throw Violation("a partition is written that the group took");
            if (mutation_ == Mutation::as_of_of_newest_end) {
                if (consumer.newest_asked != Timestamp{}) part.as_of = consumer.newest_asked;
            }
            tell(&consumer, "flush ", part.partition, " [", part.from, ", ", part.next, ") epoch ", part.epoch);
        }
        if (consumer.batch.records() == 0) met(Met::instant_alone);
        start_op(consumer, Op::flush);
    }

    void go_on_flushing(Consumer& consumer) {
        if (consumer.stage == 3) return end_flush(consumer);
        if (consumer.stage == 0) {
            if (now_ < outage_until_) return answer(consumer, Flushed::failed);
            auto& store = store_of(consumer);
            if (consumer.tx == -1) consumer.tx = store.begin();
            Mask partitions = 0;
            for (const auto& part : consumer.batch.parts)
                partitions |= bit(part.partition);
            switch (wait_for(consumer, partitions)) {
                case Locks::wait:
                    return;
                case Locks::time_out:
                    store.abort(consumer.tx);
                    return answer(consumer, Flushed::failed);
                case Locks::free:
                    break;
            }
            if (consumer.swaps != swaps_) {
                // Under the name that it knows are the other one's rows now, or none.
                store.abort(consumer.tx);
                return answer(consumer, consumer.follows ? Flushed::failed : Flushed::fenced);
            }
            if (!store.advance(consumer.tx, consumer.batch)) {
                store.abort(consumer.tx);
                if (consumer.thawed_with_records) met(Met::zombie_refused);
                return answer(consumer, Flushed::fenced);
            }
        } else {
            const bool broken = now_ < outage_until_ || (has(kBrokenConnection) && random_.chance(10));
            auto& store = store_of(consumer);
            if (broken && store.is_open(consumer.tx)) store.abort(consumer.tx);
            if (!store.is_open(consumer.tx)) {
                // Whoever sends COMMIT into a session that is gone cannot tell whether it arrived.
                return answer(consumer,
                              consumer.stage == 2 && random_.chance(50) ? Flushed::in_doubt : Flushed::failed);
            }
            if (consumer.stage == 1) store.fold(consumer.tx, consumer.batch);
            if (consumer.stage == 2) return commit(consumer);
        }
        store_of(consumer).idle_until(consumer.tx, now_ + kIdleInTransaction);
        consumer.stage += 1;
        consumer.wake = now_ + latency();
    }

    void commit(Consumer& consumer) {
        auto& store = store_of(consumer);
        if (mutation_ == Mutation::offsets_before_apply) store.move_offsets(consumer.tx);
        const bool in_doubt = has(kInDoubt) && random_.chance(30);
        switch (in_doubt ? random_.below(3) : 0) {
            case 1:
                store.abort(consumer.tx);
                break;
            case 2:
                store.leave_undecided(consumer.tx, now_ + random_.between(0, 60 * kMillisecond), random_.chance(60));
                break;
            default:
                store.commit(consumer.tx);
                break;
        }
        answer(consumer, in_doubt ? Flushed::in_doubt : Flushed::committed);
    }

    // The client hears of it after a while, or never.
    void answer(Consumer& consumer, Flushed outcome) {
        consumer.outcome = outcome;
        consumer.stage = 3;
        consumer.wake = now_ + latency();
    }

    void end_flush(Consumer& consumer) {
        auto& state = *consumer.state;
        auto outcome = consumer.outcome;
        if (outcome == Flushed::in_doubt && mutation_ == Mutation::in_doubt_is_committed) outcome = Flushed::committed;
        if (outcome == Flushed::in_doubt && mutation_ == Mutation::in_doubt_is_not_committed) outcome = Flushed::failed;
        constexpr std::array<std::string_view, 4> kOutcomes{"committed", "fenced", "failed", "in doubt"};
        tell(&consumer, "flush ", kOutcomes.at(static_cast<std::size_t>(outcome)));
        if (outcome == Flushed::failed) met(Met::failed_flush);
        if (outcome == Flushed::fenced) met(Met::fenced_flush);
        // Who has lost its connection cannot ask.
        const bool asks = outcome == Flushed::fenced || (outcome == Flushed::failed && random_.chance(50));
        if (asks && check_place(consumer)) {
            move(consumer);
        } else {
            state.flushed(outcome, steady(consumer.began), steady(now_));
        }
        if (consumer.tx != -1) {
            if (outcome == Flushed::committed && mutation_ != Mutation::forget_log_time) {
                for (const auto& [partition, log_time] : store_of(consumer).log_times(consumer.tx))
                    state.log_time(partition, log_time);
            }
            store_of(consumer).forget(consumer.tx);
            consumer.tx = -1;
        }
        consumer.batch.parts.clear();
        consumer.late_commit = false;
        end_op(consumer);
    }

    void go_on_resolving(Consumer& consumer) {
        auto& state = *consumer.state;
        const auto partitions = mask(consumer);
        if (now_ < outage_until_) return fail_resolving(consumer);
        if (check_place(consumer)) {
            move(consumer);
            return end_op(consumer);
        }
        switch (wait_for(consumer, partitions)) {
            case Locks::wait:
                if (!std::exchange(consumer.late_commit, true)) met(Met::in_doubt_undecided);
                return;
            case Locks::time_out:
                return fail_resolving(consumer);
            case Locks::free:
                break;
        }
        const auto before = state.counters();
        state.resolved(store_of(consumer).read(partitions), steady(now_));
        const auto& after = state.counters();
        if (after.in_doubt_committed != before.in_doubt_committed) {
            met(Met::in_doubt_committed);
        } else if (after.fenced == before.fenced) {
            met(Met::in_doubt_not_committed);
        }
        tell(&consumer, "resolved: ", state.phase());
        end_op(consumer);
    }

    void fail_resolving(Consumer& consumer) {
        tell(&consumer, "resolve failed");
        consumer.state->resolve_failed(steady(now_));
        end_op(consumer);
    }

    // A consumer never thinks that more is in the tables than is, and never holds more than it may.
    void check_beliefs(const Consumer& consumer) const {
        const auto& state = *consumer.state;
        const auto as_of = state.as_of();
        for (const auto& [partition, part] : state.buffer().parts()) {
            const auto& row = store_of(consumer).row(partition);
            if (part.from > row.next) {
                throw Violation(text("consumer ", consumer.number, " thinks partition ", partition, " is at ",
                                     part.from, ", it is at ", row.next));
            }
            if (as_of && *as_of > row.as_of)
                throw Violation(text("consumer ", consumer.number, " thinks it has more than it has"));
        }
        if (state.buffer().records() > options_.limits.records) throw Violation("the buffer is beyond its limit");
    }

    // The end: no faults any more, everybody up.

    void drain() {
        tell(nullptr, "drain");
        draining_ = true;
        drain_by_ = now_ + kDrain;
        outage_until_ = 0;
        pace_ = 3 * kMillisecond;
        for (auto& consumer : consumers_) {
            if (consumer.frozen_until > now_) {
                consumer.frozen_until = 0;
                consumer.wake = now_;
            }
        }
        rebalance_at_ = now_ + kSession;
    }

    [[nodiscard]] bool caught_up() const {
        return std::all_of(stores_.begin(), stores_.end(), [this](const Store& store) {
            for (int partition = 0; partition < partitions_; ++partition) {
                const auto& row = store.row(partition);
                if (row.next != log_.end(partition) || row.as_of < wall(faults_end_)) return false;
            }
            return true;
        });
    }

    void stop_all() {
        tell(nullptr, "stop all");
        stopping_ = true;
        drain_by_ = now_ + kDrain;
        rebalance_at_ = kNever;
        for (auto& consumer : consumers_) {
            if (consumer.state) {
                consumer.leaving = true;
                consumer.state->stop();
            } else {
                consumer.wake = kNever;
            }
        }
    }

    [[nodiscard]] bool all_stopped() const {
        return std::all_of(stores_.begin(), stores_.end(),
                           [](const Store& store) { return store.next_end() == kNever; }) &&
               std::none_of(consumers_.begin(), consumers_.end(),
                            [](const Consumer& consumer) { return consumer.state.has_value(); });
    }

    [[nodiscard]] std::string standing() const {
        std::ostringstream out;
        for (std::size_t generation = 0; generation < generations_; ++generation) {
            out << (generation == live_ ? "live: " : "follower: ");
            for (int partition = 0; partition < partitions_; ++partition) {
                const auto& row = stores_[generation].row(partition);
                out << "partition " << partition << " at " << row.next << " of " << log_.end(partition) << ", as of "
                    << (row.as_of == Timestamp{} ? 0 : (row.as_of - kEpoch).count()) << " us; ";
            }
        }
        for (const auto& consumer : consumers_) {
            out << "consumer " << consumer.number << ' ' << (consumer.state ? consumer.state->phase() : "down") << "; ";
        }
        return out.str();
    }

    Random random_;
    Mutation mutation_;
    std::ostream* trace_;
    Run run_;
    int partitions_;
    Log log_;
    std::size_t generations_;  // the live one, and sometimes one that follows it
    std::deque<Store> stores_;
    std::vector<Consumer> consumers_;
    StreamState::Options options_;
    unsigned faults_ = 0;
    Time pace_ = 0;  // of what the world does: once in this time, on average
    Time faults_end_ = 0;
    int most_entries_ = 0;
    int appended_ = 0;
    hours broker_clock_{0};
    Time now_ = 0;
    Time rebalance_at_ = kNever;
    Time outage_until_ = 0;
    std::size_t live_ = 0;
    int swaps_ = 0;
    bool swapped_last_ = false;
    Time stands_until_ = 0;  // the live generation, to be swapped; 0: it does not
    Time drain_by_ = 0;
    bool draining_ = false;
    bool stopping_ = false;
    Table<std::optional<Mask>, kMaxConsumers> wanted_;  // what the group has for each, not told yet
};

}  // namespace

}  // namespace simulated

namespace {

constexpr std::array<MutationName, 13> kMutations{{
    {Mutation::drop_fence, "drop_fence"},
    {Mutation::offsets_before_apply, "offsets_before_apply"},
    {Mutation::keep_buffer_on_loss, "keep_buffer_on_loss"},
    {Mutation::in_doubt_is_committed, "in_doubt_is_committed"},
    {Mutation::in_doubt_is_not_committed, "in_doubt_is_not_committed"},
    {Mutation::dedupe_within_batch, "dedupe_within_batch"},
    {Mutation::parked_is_first_sight, "parked_is_first_sight"},
    {Mutation::as_of_of_newest_end, "as_of_of_newest_end"},
    {Mutation::forget_log_time, "forget_log_time"},
    {Mutation::stale_end_of_partition, "stale_end_of_partition"},
    {Mutation::follower_ignores_leader, "follower_ignores_leader"},
    {Mutation::look_without_place, "look_without_place"},
    {Mutation::moved_goes_on_blindly, "moved_goes_on_blindly"},
}};

constexpr std::array<std::string_view, kMetKinds> kMetNames{
    "commit",
    "instant_alone",
    "failed_flush",
    "fenced_flush",
    "zombie_refused",
    "in_doubt_committed",
    "in_doubt_not_committed",
    "in_doubt_undecided",
    "crash_in_transaction",
    "crash_in_commit",
    "idle_transaction_ended",
    "owner_terminated",
    "claim_answer_lost",
    "foreign_claim",
    "outage",
    "lost_with_records",
    "revoked_with_records",
    "two_owners",
    "stopped_with_records",
    "duplicate",
    "conflict",
    "poison",
    "beyond_horizon",
    "gap",
    "redelivered",
    "clock_back",
    "follower_waited",
    "swapped",
    "standstill_late",
    "moved_with_records",
    "moved_in_doubt",
    "narrowed",
    "went_on",
};
static_assert(static_cast<std::size_t>(Met::went_on) + 1 == kMetKinds);

}  // namespace

std::span<const MutationName> mutations() noexcept {
    return kMutations;
}

std::string_view to_string(Met met) noexcept {
    return kMetNames[static_cast<std::size_t>(met)];
}

Run simulate(std::uint64_t seed, Mutation mutation, std::ostream* trace) {
    return simulated::Simulation(seed, mutation, trace).run();
}

}  // namespace tidemark::tests
