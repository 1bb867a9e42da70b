#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace tidemark::http {

/// Visits its entries after their deadlines, by at most two resolutions. One timer drives it, so that a deadline that
/// moves with each request costs a comparison instead of a timer: an entry's place only ever moves towards the present,
/// a later deadline leaves it where it is. So a visit may also come too early, and the visitor must look at its clock
/// and schedule the entry again. Not thread-safe; belongs to one event loop.
class DeadlineWheel {
public:
    using TimePoint = std::chrono::steady_clock::time_point;

    /// What an object derives from to stand in a wheel; it must be removed before it dies.
    class Entry {
    public:
        Entry() = default;
        Entry(const Entry&) = delete;
        Entry& operator=(const Entry&) = delete;

    protected:
        ~Entry() = default;

    private:
        friend class DeadlineWheel;
        Entry* previous_ = nullptr;
        Entry* next_ = nullptr;
        std::uint64_t tick_ = 0;
    };

    DeadlineWheel(TimePoint start, std::chrono::milliseconds resolution) noexcept
        : start_(start), resolution_(resolution) {
        for (auto& slot : slots_)
            slot.previous_ = slot.next_ = &slot;
    }

    /// Puts the entry where it is visited at `at` or, when it stands earlier than that already, leaves it there.
    void schedule(Entry& entry, TimePoint at) noexcept {
        auto tick = tick_of(at) + 1;  // the first tick that lies behind `at`
        if (tick <= current_) tick = current_ + 1;
        if (tick - current_ > kSlots - 1)
            tick = current_ + kSlots - 1;  // beyond the horizon: visited early, asked again
        if (entry.next_ != nullptr) {
            if (entry.tick_ <= tick) return;
            unlink(entry);
        }
        entry.tick_ = tick;
        link(entry, slots_[tick % kSlots]);
    }

    void remove(Entry& entry) noexcept {
        if (entry.next_ != nullptr) unlink(entry);
    }

    /// Calls `visit(Entry&)` for each entry whose time has come, taken out before. `visit` may schedule or remove any.
    template <typename Visit>
    void advance(TimePoint now, Visit&& visit) {
        const auto target = tick_of(now);
        // After a long stop (SIGSTOP, a suspended machine) one turn visits everything.
        if (target > current_ + kSlots) current_ = target - kSlots;
        while (current_ < target) {
            ++current_;
            visit_all(slots_[current_ % kSlots], visit);
        }
    }

    /// Calls `visit(Entry&)` for every entry, taken out before; those that `visit` schedules again are not visited
    /// twice.
    template <typename Visit>
    void visit_each(Visit&& visit) {
        Slot all;
        for (auto& slot : slots_)
            splice(slot, all);
        drain(all, visit);
    }

private:
    class Slot : public Entry {
    public:
        Slot() = default;
        ~Slot() = default;
    };

    /// 256 slots of at most 250 ms reach over a minute, twice the longest default deadline.
    static constexpr std::size_t kSlots = 256;

    [[nodiscard]] std::uint64_t tick_of(TimePoint at) const noexcept {
        return at <= start_ ? 0 : static_cast<std::uint64_t>((at - start_) / resolution_);
    }

    static void link(Entry& entry, Entry& slot) noexcept {
        entry.previous_ = slot.previous_;
        entry.next_ = &slot;
        slot.previous_->next_ = &entry;
        slot.previous_ = &entry;
    }

    static void unlink(Entry& entry) noexcept {
        entry.previous_->next_ = entry.next_;
        entry.next_->previous_ = entry.previous_;
        entry.previous_ = entry.next_ = nullptr;
    }

    static void splice(Entry& from, Entry& to) noexcept {
        if (to.next_ == nullptr) to.previous_ = to.next_ = &to;
        if (from.next_ == &from) return;
        from.next_->previous_ = to.previous_;
        to.previous_->next_ = from.next_;
        from.previous_->next_ = &to;
        to.previous_ = from.previous_;
        from.previous_ = from.next_ = &from;
    }

    template <typename Visit>
    static void drain(Entry& list, Visit& visit) {
        while (list.next_ != &list) {
            auto& entry = *list.next_;
            unlink(entry);
            visit(entry);
        }
    }

    template <typename Visit>
    static void visit_all(Entry& slot, Visit& visit) {
        Slot due;
        splice(slot, due);
        drain(due, visit);
    }

    TimePoint start_;
    std::chrono::milliseconds resolution_;
    std::uint64_t current_ = 0;
    std::array<Slot, kSlots> slots_;
};

}  // namespace tidemark::http
