#include "consumers/swap.h"

#include "consumers/standstill.h"
#include "infra/base/backoff.h"
#include "infra/base/failpoint.h"

#include <algorithm>
#include <stdexcept>
#include <thread>
#include <utility>

namespace tidemark::consumers {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr pg::Statement kLeave{"generations_leave", R"(
update tidemark.generations set status = $3, schema_name = $4, retired_at = now()
where stream = $1 and generation = $2 and status = 'live')"};

constexpr pg::Statement kEnter{"generations_enter", R"(
update tidemark.generations set status = 'live', schema_name = $1, retired_at = null
where stream = $1 and generation = $2)"};

constexpr pg::Statement kCountSwap{"streams_count_swap", R"(
update tidemark.streams set swaps = swaps + 1 where name = $1)"};

constexpr pg::Statement kTell{"generations_tell", "select pg_notify('tidemark_progress', $1)"};

constexpr pg::Statement kForget{"generations_forget", R"(
delete from tidemark.generations
where stream = $1 and generation = $2 and schema_name = $3 and status <> 'live')"};

constexpr pg::Statement kForgetConsumers{"generations_forget_consumers", R"(
delete from tidemark.consumers where stream = $1 and generation = $2)"};

pg::SessionOptions session(const char* name) {
    pg::SessionOptions options;
    options.application_name = name;
    options.statement_timeout = std::chrono::minutes(5);
    options.idle_in_transaction_timeout = std::chrono::seconds(3);
    return options;
}

std::string number_of(const Generation& generation) {
    return std::to_string(generation.target.generation);
}

std::string name_of(const Generation& generation) {
    return std::string(generation.target.projection->stream().name);
}

// False of tables that an earlier version made.
constexpr pg::Statement kCanDropWindows{"generations_can_drop_windows", R"(
select exists (select 1 from information_schema.columns
               where table_schema = $1 and table_name = 'offsets' and column_name = 'windows_from'))"};

}  // namespace

void check_is_folded(pg::Connection& connection, const Generation& generation, milliseconds patience) {
    const auto is_folded = [&] {
        const auto folders = find_folders(connection, *generation.target.projection, generation.target.generation);
        return std::any_of(folders.begin(), folders.end(),
                           [](const Folder& folder) { return folder.state == "consuming" || folder.state == "idle"; });
    };
    const auto until = Clock::now() + patience;
    base::Backoff backoff(milliseconds(50), milliseconds(500), 1);
    while (!is_folded()) {
        if (Clock::now() >= until) {
            throw Refused("nobody would go on folding generation " + number_of(generation) + " of " +
                          name_of(generation) + ": no consumer of fingerprint " + generation.fingerprint +
                          " has told of itself lately. Start one (`tidemark-consumer run` of that version), then try "
                          "again");
        }
        std::this_thread::sleep_for(backoff.next());
    }
}

void refuse_scratch(const Generation& generation) {
    if (generation.role != Role::scratch) return;
    const auto stream = name_of(generation);
    const auto number = number_of(generation);
    throw Refused("generation " + number + " of " + stream +
                  " is a scratch, folded from a file and not from the log: it is there to be looked at, in schema " +
                  generation.schema + ", and to be dropped: `tidemark-consumer drop " + stream + " " + number + "`");
}

Pair choose_pair(pg::Connection& connection, const Projection& projection, Choice choice, std::int64_t wanted) {
    const std::string stream(projection.stream().name);
    auto all = find_generations(connection, projection);
    Generation* live = nullptr;
    Generation* chosen = nullptr;
    Generation* previous = nullptr;
    std::string candidates;
    for (auto& one : all) {
        if (one.role == Role::live) {
            live = &one;
        } else if (wanted != 0) {
            if (one.target.generation == wanted) chosen = &one;
        } else if (one.role == Role::scratch) {
            continue;
        } else if (one.role == Role::retired) {
            if (previous == nullptr || one.retired_at > previous->retired_at) previous = &one;
        } else if (choice != Choice::retired) {
            candidates += (candidates.empty() ? "" : ", ") + number_of(one);
            if (chosen == nullptr || chosen->role == Role::building) chosen = &one;
        }
    }
    if (live == nullptr) throw no_tables(projection);
    if (candidates.find(',') != std::string::npos) {
        throw Refused("stream " + stream + " has generations " + candidates +
                      " that may be meant: give the number, or drop what is not wanted");
    }
    if (chosen == nullptr && wanted == 0 && choice != Choice::candidate) chosen = previous;
    if (chosen == nullptr) {
        throw Refused(wanted != 0 ? "stream " + stream + " has no generation " + std::to_string(wanted) +
                                        " beside the live one: see `tidemark-consumer generations " + stream + "`"
                      : choice == Choice::retired
                          ? "stream " + stream +
                                " has no generation to go back to: none was live before, or it was dropped. "
                                "`tidemark-consumer replay " +
                                stream + "` makes one"
                          : "stream " + stream +
                                " has no generation beside the live one: make one with `tidemark-consumer replay " +
                                stream + "`");
    }
    refuse_scratch(*chosen);
    if (chosen->role == Role::building) {
        throw Refused("generation " + number_of(*chosen) + " of " + stream +
                      " has not caught up yet: let `tidemark-consumer replay " + stream +
                      "` finish, or run it again when it was stopped");
    }
    return {std::move(*live), std::move(*chosen)};
}

std::vector<std::int64_t> swap_generations(const SwapOptions& options, const Pair& pair) {
    const auto& [live, next] = pair;
    const auto stream = name_of(live);
    Standstill standstill({.owner_dsn = options.owner_dsn, .timeout = options.timeout, .cancelled = options.cancelled},
                          live, next);
    auto& tx = standstill.transaction();
    const auto live_offsets = pg::quote_identifier(live.schema, "offsets");
    const auto next_offsets = pg::quote_identifier(next.schema, "offsets");
    // Whoever wrote either of them, as what it was, writes no more. What is known of the live one's age holds for the
    // next one too, for it holds the same records.
    tx.run_script("update " + next_offsets + " n set epoch = n.epoch + 1, as_of = greatest(n.as_of, l.as_of) from " +
                  live_offsets + " l where l.partition = n.partition");
    tx.run_script("update " + live_offsets + " set epoch = epoch + 1");
    // What readers were told is gone does not come back, although the next one's consumers may not have got as far yet.
    pg::Params next_schema;
    next_schema.add(next.schema);
    if (tx.run(kCanDropWindows, next_schema).boolean(0, 0)) {
        tx.run_script("update " + next_offsets + " set windows_from = greatest(windows_from, " +
                      windows_from_of(next.schema) + ", " + windows_from_of(live.schema) + ")");
    }
    const auto aside = stream + "_" + number_of(live);
    tx.run_script("alter schema " + pg::quote_identifier(live.schema) + " rename to " + pg::quote_identifier(aside));
    tx.run_script("alter schema " + pg::quote_identifier(next.schema) + " rename to " + pg::quote_identifier(stream));
    pg::Params leave;
    leave.add(stream).add(std::int64_t{live.target.generation}).add(to_string(options.leaving)).add(aside);
    tx.run(kLeave, leave);
    pg::Params enter;
    enter.add(stream).add(std::int64_t{next.target.generation});
    tx.run(kEnter, enter);
    pg::Params name;
    name.add(stream);
    tx.run(kCountSwap, name);
    tx.run(kTell, name);
    FAILPOINT("r3_swap");
    try {
        tx.commit();
    } catch (const pg::Error& error) {
        if (error.failure() != pg::Failure::in_doubt) throw;
        pg::Connection connection(options.owner_dsn, session("tidemark-consumer swap"));
        const auto place = find_place(connection, *next.target.projection, next.target.generation);
        if (!place || place->role != Role::live) {
            throw std::runtime_error("the connection broke before anything was changed; try again (" +
                                     std::string(error.what()) + ")");
        }
    }
    return standstill.vector();
}

void drop_generation(const std::string& owner_dsn, const Projection& projection, int generation) {
    const std::string stream(projection.stream().name);
    pg::Connection connection(owner_dsn, session("tidemark-consumer drop"));
    const auto until = Clock::now() + std::chrono::seconds(30);
    base::Backoff backoff(milliseconds(100), milliseconds(2'000), 1);
    while (true) {
        const auto place = find_place(connection, projection, generation);
        if (!place) {
            throw Refused("stream " + stream + " has no generation " + std::to_string(generation) +
                          ": see `tidemark-consumer generations " + stream + "`");
        }
        if (place->role == Role::live) {
            throw Refused("generation " + std::to_string(generation) + " of " + stream +
                          " is the live one: promote another or roll back first");
        }
        try {
            auto tx = connection.begin();
            // First what every flush and every swap begins with: none is under way after it, so none waits for us while
            // we wait for it.
            tx.run_script("lock table " + pg::quote_identifier(place->schema, "offsets") + " in access exclusive mode");
            pg::Params params;
            params.add(stream).add(std::int64_t{generation}).add(place->schema);
            if (tx.run(kForget, params).affected() == 0) continue;  // it has become another one's: look again
            pg::Params number;
            number.add(stream).add(std::int64_t{generation});
            tx.run(kForgetConsumers, number);
            tx.run_script("drop schema " + pg::quote_identifier(place->schema) + " cascade");
            tx.commit();
            return;
        } catch (const pg::Error& error) {
            const bool may_pass = error.failure() == pg::Failure::retryable || tables_moved(error);
            if (!may_pass || Clock::now() >= until) throw;
        }
        std::this_thread::sleep_for(backoff.next());
    }
}

}  // namespace tidemark::consumers
