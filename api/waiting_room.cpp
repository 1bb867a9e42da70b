#include "api/waiting_room.h"

#include <algorithm>
#include <utility>

namespace tidemark::api {

WaitingRoom::WaitingRoom(std::size_t streams, std::size_t capacity) : streams_(streams), capacity_(capacity) {}

bool WaitingRoom::has_reached_ends(const Waiter& waiter, const Stream& stream) noexcept {
    if (waiter.ends.empty() || !stream.progress) return false;
    for (std::size_t p = 0; p < waiter.ends.size(); ++p) {
        if (!stream.progress->holds(static_cast<std::int32_t>(p), waiter.ends[p] - 1)) return false;
    }
    return true;
}

bool WaitingRoom::is_satisfied(const Waiter& waiter, const Stream& stream) noexcept {
    const auto& wish = waiter.wish;
    if (wish.only_in_log) return !needs_ends(waiter, stream);
    if (!stream.progress) return false;
    const auto& progress = *stream.progress;
    if (!std::all_of(wish.at_least.begin(), wish.at_least.end(),
                     [&](const auto& position) { return progress.holds(position.partition, position.offset); })) {
        return false;
    }
    if (wish.everything_acknowledged && !has_reached_ends(waiter, stream)) return false;
    // Beside a question that was sent after the read came, because that instant is later than the one wished for.
    return !wish.as_of || progress.oldest_as_of() >= wish.as_of || has_reached_ends(waiter, stream);
}

bool WaitingRoom::needs_ends(const Waiter& waiter, const Stream& stream) noexcept {
    if (!waiter.ends.empty()) return false;
    if (waiter.wish.everything_acknowledged || waiter.wish.as_of) return true;
    return std::any_of(waiter.wish.at_least.begin(), waiter.wish.at_least.end(), [&](const auto& position) {
        const auto index = static_cast<std::size_t>(position.partition);
        return index >= stream.known_ends.size() || stream.known_ends[index] <= position.offset;
    });
}

bool WaitingRoom::wants_only_log(const Waiter& waiter) noexcept {
    return waiter.wish.only_in_log;
}

bool WaitingRoom::is_beyond(const Waiter& waiter) noexcept {
    return !waiter.ends.empty() &&
           std::any_of(waiter.wish.at_least.begin(), waiter.wish.at_least.end(), [&](const auto& position) {
               const auto index = static_cast<std::size_t>(position.partition);
               return index >= waiter.ends.size() || waiter.ends[index] <= position.offset;
           });
}

void WaitingRoom::want_poke(Stream& stream, Instant now) noexcept {
    const auto earliest = stream.last_poke == Instant::min() ? now : std::max(now, stream.last_poke + kPokeInterval);
    stream.poke_due = std::min(stream.poke_due, earliest);
    stream.poke_interval = kPokeInterval;
}

template <typename Decide>
void WaitingRoom::let_go(Stream& stream, Calls& calls, Decide decide) {
    auto& waiters = stream.waiters;
    std::size_t kept = 0;
    for (auto& waiter : waiters) {
        if (const std::optional<Waited> waited = decide(std::as_const(waiter))) {
            const bool proven = *waited == Waited::satisfied && has_reached_ends(waiter, stream);
            calls.push_back({std::move(waiter.done), {*waited, proven ? waiter.asked_at : std::nullopt}});
            continue;
        }
        if (&waiters[kept] != &waiter) waiters[kept] = std::move(waiter);
        ++kept;
    }
    waiting_ -= waiters.size() - kept;
    waiters.erase(waiters.begin() + static_cast<std::ptrdiff_t>(kept), waiters.end());
    if (waiters.empty()) stream.poke_due = Instant::max();
}

void WaitingRoom::admit(std::size_t index, Wish wish, Instant deadline, Done done, Instant now, Calls& calls) {
    auto& stream = streams_.at(index);
    Waiter waiter{std::move(wish), deadline, std::move(done), questions_};
    if (is_satisfied(waiter, stream)) {
        calls.push_back({std::move(waiter.done), {Waited::satisfied}});
        return;
    }
    if (waiting_ >= capacity_) {
        calls.push_back({std::move(waiter.done), {Waited::crowded}});
        return;
    }
    if (needs_ends(waiter, stream)) stream.question_wanted = true;
    stream.waiters.push_back(std::move(waiter));
    ++waiting_;
    if (!wants_only_log(stream.waiters.back())) want_poke(stream, now);
}

void WaitingRoom::advance(std::size_t index, const Progress& progress, Instant now, Calls& calls) {
    auto& stream = streams_.at(index);
    const bool moved = !stream.progress || stream.progress->next != progress.next;
    stream.progress = progress;
    stream.known_ends.resize(std::max(stream.known_ends.size(), progress.next.size()));
    for (std::size_t p = 0; p < progress.next.size(); ++p) {
        stream.known_ends[p] = std::max(stream.known_ends[p], progress.next[p]);
    }
    let_go(stream, calls, [&](const Waiter& waiter) {
        return is_satisfied(waiter, stream) ? std::optional(Waited::satisfied) : std::nullopt;
    });
    // The flush came, but before the record that somebody waits for: ask for another.
    if (moved && !std::all_of(stream.waiters.begin(), stream.waiters.end(), wants_only_log)) want_poke(stream, now);
}

std::optional<WaitingRoom::Question> WaitingRoom::take_question() noexcept {
    for (std::size_t index = 0; index < streams_.size(); ++index) {
        if (!std::exchange(streams_[index].question_wanted, false)) continue;
        return Question{index, ++questions_};
    }
    return std::nullopt;
}

void WaitingRoom::answer(const Question& question, schemas::Timestamp asked_at, const std::vector<std::int64_t>& ends,
                         Calls& calls) {
    auto& stream = streams_.at(question.stream);
    stream.known_ends.resize(std::max(stream.known_ends.size(), ends.size()));
    for (std::size_t p = 0; p < ends.size(); ++p)
        stream.known_ends[p] = std::max(stream.known_ends[p], ends[p]);
    for (auto& waiter : stream.waiters) {
        if (waiter.arrival >= question.number || !waiter.ends.empty()) continue;
        waiter.ends = ends;
        waiter.asked_at = asked_at;
    }
    let_go(stream, calls, [&](const Waiter& waiter) -> std::optional<Waited> {
        if (is_beyond(waiter)) return Waited::token_unknown;
        if (is_satisfied(waiter, stream)) return Waited::satisfied;
        return std::nullopt;
    });
}

void WaitingRoom::no_answer(const Question& question) noexcept {
    auto& stream = streams_[question.stream];
    stream.question_wanted = std::any_of(stream.waiters.begin(), stream.waiters.end(),
                                         [&](const Waiter& waiter) { return needs_ends(waiter, stream); });
}

std::vector<std::size_t> WaitingRoom::due_pokes(Instant now) {
    std::vector<std::size_t> due;
    for (std::size_t index = 0; index < streams_.size(); ++index) {
        auto& stream = streams_[index];
        if (stream.poke_due > now) continue;
        due.push_back(index);
        stream.last_poke = now;
        stream.poke_due = now + stream.poke_interval;
        stream.poke_interval = std::min<std::chrono::milliseconds>(stream.poke_interval * 2, kPokeIntervalMax);
    }
    return due;
}

void WaitingRoom::expire(Instant now, Calls& calls) {
    for (auto& stream : streams_) {
        let_go(stream, calls, [now](const Waiter& waiter) {
            return waiter.deadline <= now ? std::optional(Waited::stale) : std::nullopt;
        });
    }
}

void WaitingRoom::release(Calls& calls) {
    for (auto& stream : streams_) {
        let_go(stream, calls, [](const Waiter&) { return std::optional(Waited::stale); });
    }
}

WaitingRoom::Instant WaitingRoom::next_due() const noexcept {
    auto due = Instant::max();
    for (const auto& stream : streams_) {
        due = std::min(due, stream.poke_due);
        for (const auto& waiter : stream.waiters)
            due = std::min(due, waiter.deadline);
    }
    return due;
}

}  // namespace tidemark::api
