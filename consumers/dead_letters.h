#pragma once

#include "consumers/generation.h"
#include "schemas/position.h"

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <ostream>
#include <string>

namespace tidemark::consumers {

struct DeadLetterOptions {
    std::string dsn;                            ///< of the consumer role
    std::optional<schemas::Position> letter{};  ///< only this one, whole
    std::string reason{};                       ///< empty: any
    std::int64_t limit = 0;                     ///< of the newest
    bool json = false;
};

/// Writes what of a stream's log the live tables could not take: how many for which reason, and the newest ones; or one
/// of them whole. Bytes that are no UTF-8 are shown as base64. As JSON:
///   {"stream":"counters","generation":1,"count":2,
///    "reasons":[{"reason":"malformed","status":"open","count":2,"oldest":"...","newest":"..."}],
///    "letters":[{"letter":"0:17","appendTime":"...","reason":"malformed","detail":"...","status":"open","attempts":1,
///                "holds":false,"key":"abc","size":3}]}
/// One of them has no "size", but "topic", "decision":"0:42" or null, "note", "headers":[{"name":"...","value":"..."}]
/// and "value"; key, value and a header's parts may be null, and have "Base64" behind their name where they are that.
/// Throws Refused when there is no such letter, pg::Error.
void write_dead_letters(const DeadLetterOptions& options, const Generation& live, std::ostream& out);

struct DecideOptions {
    std::string dsn;  ///< of the consumer role
    std::string brokers;
    std::map<std::string, std::string> kafka_properties{};
    std::optional<schemas::Position> letter{};  ///< only this one
    std::string reason{};                       ///< only these; empty: any
    bool redrive = true;                        ///< otherwise discard
    std::optional<std::string> edit{};          ///< what to judge in place of the value
    std::optional<std::string> note{};          ///< why it is discarded
    bool dry_run = false;                       ///< only say which ones
    bool json = false;
    std::chrono::milliseconds timeout{30'000};  ///< for the consumers to fold the decisions
    std::function<bool()> cancelled = [] { return false; };
};

/// Decides about open letters, but for decisions that became letters unless one is named: appends an event for each to
/// its partition, a hundred at a time, waits until the live tables hold them, and writes what became of each. Redrives
/// the first ones first and discards the last ones first, so that nothing is released that is to be discarded; to a
/// letter that waits behind another no redrive is sent. Ends when a decision itself became a dead letter. True when all
/// are redriven, or discarded. As JSON:
///   {"stream":"counters","letters":[{"letter":"0:17","decision":"0:42","status":"redriven","detail":"..."}]}
/// "decision" is null where none was sent. Throws Refused when nothing is meant or the letter is not open or waits,
/// kafka::Error, pg::Error, std::runtime_error when the decisions are on the log and were not folded in time.
bool decide_dead_letters(const DecideOptions& options, const Generation& live, std::ostream& out);

}  // namespace tidemark::consumers
