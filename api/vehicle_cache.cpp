#include "api/vehicle_cache.h"

#include <algorithm>
#include <utility>

namespace tidemark::api {

std::size_t VehicleCache::KeyHash::operator()(const Key& key) const noexcept {
    auto value = static_cast<std::uint64_t>(key.vehicle) * 0x9e3779b97f4a7c15ULL;
    value ^= static_cast<std::uint64_t>(key.at.time_since_epoch().count());
    value += static_cast<std::uint64_t>(key.generation);
    value *= 0xff51afd7ed558ccdULL;
    return static_cast<std::size_t>(value ^ (value >> 32U));
}

VehicleCache::Shared VehicleCache::find_locked(const Key& key, Instant now) {
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    if (found->second->dies <= now) {
        remove_locked(found->second);
        return nullptr;
    }
    slots_.splice(slots_.begin(), slots_, found->second);
    return found->second->entry;
}

void VehicleCache::remove_locked(Slots::iterator slot) {
    counters_.bytes -= slot->bytes;
    index_.erase(slot->key);
    slots_.erase(slot);
    counters_.entries = slots_.size();
}

VehicleCache::Shared VehicleCache::find(const Key& key, Instant now) {
    const std::lock_guard lock(mutex_);
    auto entry = find_locked(key, now);
    if (entry) ++counters_.hits;
    return entry;
}

VehicleCache::Joined VehicleCache::find_or_join(const Key& key, std::shared_ptr<Read> read, Instant now) {
    const std::lock_guard lock(mutex_);
    if (auto entry = find_locked(key, now)) {
        ++counters_.hits;
        return {std::move(entry)};
    }
    auto& flight = flights_[key];
    const bool leads = flight.empty();
    flight.push_back(std::move(read));
    ++counters_.misses;
    if (!leads) ++counters_.joins;
    return {nullptr, leads};
}

std::vector<std::shared_ptr<Read>> VehicleCache::land(const Key& key) {
    const std::lock_guard lock(mutex_);
    auto flight = flights_.extract(key);
    return flight ? std::move(flight.mapped()) : std::vector<std::shared_ptr<Read>>();
}

void VehicleCache::put(const Key& key, Shared entry, schemas::Timestamp wall, Instant now) {
    // A span of the steady clock, so that a wall clock that is set keeps no answer alive.
    const auto life = std::min<std::chrono::microseconds>(kMaxTime, entry->as_of + kMaxAge - wall);
    if (life <= life.zero()) return;
    const auto bytes = entry->body.size() + entry->etag.size() + entry->header_lines.size() + kOverhead;
    const std::lock_guard lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end()) {
        if (found->second->entry->as_of > entry->as_of && found->second->dies > now) return;
        remove_locked(found->second);
    }
    slots_.push_front({key, std::move(entry), now + life, bytes});
    index_.emplace(key, slots_.begin());
    counters_.bytes += bytes;
    counters_.entries = slots_.size();
    while (slots_.size() > limits_.entries || counters_.bytes > limits_.bytes)
        remove_locked(std::prev(slots_.end()));
}

VehicleCache::Counters VehicleCache::counters() const {
    const std::lock_guard lock(mutex_);
    return counters_;
}

}  // namespace tidemark::api
