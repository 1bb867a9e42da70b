#pragma once

#include "schemas/event.h"
#include "schemas/position.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tidemark::consumers {

/// Decides which events of a batch repeat an earlier one. The identities' first sights are loaded before, then every
/// event is decided in offset order in memory: neither the cut of batches nor the deletion of old rows may show. Pure.
class Dedupe {
public:
    struct First {
        std::int64_t offset = 0;
        schemas::Timestamp log_time{};
        std::string data_hash;
    };
    struct Id {
        std::int32_t partition = 0;
        std::string identity;

        friend bool operator==(const Id&, const Id&) = default;
    };
    enum class Verdict : std::uint8_t { first, duplicate, conflict };

    /// What the tables know. An identity that was asked for and not found is `loaded_none`.
    void loaded(Id id, First first) { seen_[std::move(id)] = {true, std::move(first), false}; }
    void loaded_none(Id id) { seen_.try_emplace(std::move(id)); }
    [[nodiscard]] bool knows(const Id& id) const { return seen_.contains(id); }

    /// Precondition: knows(id). A repeat counts as one iff it comes within kDedupeHorizon of log time after the first;
    /// it conflicts iff its data differs. A `first` verdict changes nothing until `applied`.
    [[nodiscard]] Verdict decide(const Id& id, schemas::Timestamp log_time, std::string_view data_hash) const;
    /// The event was folded in: it is the first sight from now on. Never called for what was parked.
    void applied(const Id& id, First first) { seen_[id] = {true, std::move(first), true}; }

    /// The first sights to be stored, sorted by partition and identity.
    [[nodiscard]] std::vector<std::pair<const Id*, const First*>> to_store() const;

private:
    struct Entry {
        bool present = false;
        First first;
        bool is_new = false;
    };
    struct Hash {
        std::size_t operator()(const Id& id) const noexcept {
            return std::hash<std::string>{}(id.identity) * 31 + static_cast<std::size_t>(id.partition);
        }
    };
    std::unordered_map<Id, Entry, Hash> seen_;
};

}  // namespace tidemark::consumers
