#include "consumers/dedupe.h"

#include <algorithm>
#include <tuple>

namespace tidemark::consumers {

Dedupe::Verdict Dedupe::decide(const Id& id, schemas::Timestamp log_time, std::string_view data_hash) const {
    const auto& entry = seen_.at(id);
    if (!entry.present || log_time - entry.first.log_time > schemas::kDedupeHorizon) return Verdict::first;
    return entry.first.data_hash == data_hash ? Verdict::duplicate : Verdict::conflict;
}

std::vector<std::pair<const Dedupe::Id*, const Dedupe::First*>> Dedupe::to_store() const {
    std::vector<std::pair<const Id*, const First*>> rows;
    for (const auto& [id, entry] : seen_) {
        if (entry.is_new) rows.emplace_back(&id, &entry.first);
    }
    std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
        return std::tie(a.first->partition, a.first->identity) < std::tie(b.first->partition, b.first->identity);
    });
    return rows;
}

}  // namespace tidemark::consumers
