#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>
#include <utility>

namespace tidemark::producer {

enum class Outcome : std::uint8_t {
    accepted,     ///< every in-sync replica has it; the position says where
    overloaded,   ///< refused before it was sent, because too much is in flight; it is in no log
    unavailable,  ///< no broker took it in time; it is in no log and never will be
    unknown,      ///< it was on the wire when time ran out: it may be in the log, once, or appear there later
    too_large,    ///< more than the topic's client takes in one record; it is in no log
};

/// What became of one published event.
struct Published {
    Outcome outcome = Outcome::unavailable;
    std::int32_t partition = -1;  ///< of an accepted one, else -1
    /// Where it stands, when accepted; else -1. A record that the broker had already (its answer to the first attempt
    /// was lost) is given a later offset, so that "everything up to here" includes it.
    std::int64_t offset = -1;
};

/// What to do with the outcome: a move-only callable `void(const Published&) noexcept`, held inline so that publishing
/// allocates nothing, called at most once. Dropped uncalled, it only destroys what it captured.
class Completion {
public:
    /// An http::Reply (24 bytes), an event's id (16) and three pointers more.
    static constexpr std::size_t kCapacity = 64;

    Completion() noexcept = default;

    template <typename Function>
    // NOLINTNEXTLINE(google-explicit-constructor): a lambda stands where one is asked for
    requires(!std::is_same_v<std::remove_cvref_t<Function>, Completion>) Completion(Function&& function)
    noexcept {
        using Held = std::remove_cvref_t<Function>;
        static_assert(std::is_nothrow_invocable_r_v<void, Held&, const Published&>,
                      "must be void(const Published&) noexcept");
        static_assert(std::is_nothrow_move_constructible_v<Held>, "captures must move without throwing");
        static_assert(std::is_nothrow_constructible_v<Held, Function&&>, "pass it by move");
        static_assert(sizeof(Held) <= kCapacity, "captures too much");
        static_assert(alignof(Held) <= alignof(std::max_align_t), "captures what storage_ cannot align");
        ::new (static_cast<void*>(storage_)) Held(std::forward<Function>(function));
        operate_ = &operate<Held>;
    }

    Completion(Completion&& other) noexcept { take(other); }
    Completion& operator=(Completion&& other) noexcept {
        if (this != &other) {
            reset();
            take(other);
        }
        return *this;
    }
    Completion(const Completion&) = delete;
    Completion& operator=(const Completion&) = delete;
    ~Completion() { reset(); }

    explicit operator bool() const noexcept { return operate_ != nullptr; }

    /// Calls and destroys what is held. Precondition: not empty.
    void operator()(const Published& published) noexcept {
        Completion once(std::move(*this));
        once.operate_(Action::call, once.storage_, nullptr, &published);
    }

private:
    enum class Action : std::uint8_t { call, move, destroy };
    using Operate = void (*)(Action, std::byte* self, std::byte* target, const Published*) noexcept;

    template <typename Held>
    static void operate(Action action, std::byte* self, std::byte* target, const Published* published) noexcept {
        auto* held = std::launder(reinterpret_cast<Held*>(self));
        switch (action) {
            case Action::call:
                (*held)(*published);
                return;
            case Action::move:
                ::new (static_cast<void*>(target)) Held(std::move(*held));
                held->~Held();
                return;
            case Action::destroy:
                held->~Held();
                return;
        }
    }

    void take(Completion& other) noexcept {
        if (other.operate_ == nullptr) return;
        other.operate_(Action::move, other.storage_, storage_, nullptr);
        operate_ = std::exchange(other.operate_, nullptr);
    }
    void reset() noexcept {
        if (operate_ != nullptr) std::exchange(operate_, nullptr)(Action::destroy, storage_, nullptr, nullptr);
    }

    alignas(std::max_align_t) std::byte storage_[kCapacity];
    Operate operate_ = nullptr;
};

}  // namespace tidemark::producer
