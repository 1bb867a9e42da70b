#pragma once

#include "consumers/generation.h"
#include "consumers/stream_state.h"
#include "infra/kafka/admin.h"
#include "infra/kafka/consumer.h"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace tidemark::consumers {

/// Checks that a claimed partition still belongs to the log that the tables were folded from. Throws LogMismatch, or
/// what the broker's client throws.
using CheckLog = std::function<void(const Claim& claim)>;

/// The topic is not the one that the tables come from: recreated, truncated, or given partitions. Nothing can be right
/// from here on.
class LogMismatch : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// The topic is not the whole log that the tables come from: what is so, and what an operator can do.
class LogRefused : public Refused {
public:
    LogRefused(const std::string& reason, const std::string& mend)
        : Refused(reason + "; mend: " + mend), reason_(reason), mend_(mend) {}

    [[nodiscard]] const std::string& reason() const { return reason_; }
    [[nodiscard]] const std::string& mend() const { return mend_; }

private:
    std::string reason_;
    std::string mend_;
};

/// How to have tables of what the topics hold now, when they are not what the tables come from but logs all the same.
std::string fold_anew();

/// How to go on with a log that ends before the tables do.
std::string restore_end_of_log();

/// How to have the events of topics that cannot be folded in a log that can.
std::string move_to_new_log();

/// The identity in the first record of a partition; nullopt when the partition is empty. Throws LogRefused when its
/// first record is something else.
std::optional<std::string> read_log_uuid(kafka::Admin& admin, const std::string& topic, std::int32_t partition);

/// Throws LogRefused when a fold from the log's start would not be what the registered log says: a partition's start is
/// gone or another log's, or partitions were added. Throws kafka::Error.
void check_log_is_whole(kafka::Admin& admin, const Target& target);

/// Throws LogRefused when the log ends before the tables do, which stand at `next`: it was cut, or restored from an
/// older copy. Ask the tables first. Throws kafka::Error.
void check_log_reaches(kafka::Admin& admin, const Target& target, const std::vector<std::int64_t>& next);

/// What is wrong when the topic is not the log that a running fold began with: it was given partitions, or recreated,
/// for which its first partition is looked at. Throws kafka::Error.
std::optional<std::string> find_other_log(kafka::Admin& admin, const Target& target);

/// For who reads the whole log of a generation beside its consumers: all partitions, and no member of a group.
/// `client_id` names the reader to the brokers.
kafka::ConsumerOptions reader_options(const Target& target, const std::string& brokers,
                                      const std::map<std::string, std::string>& kafka_properties,
                                      const std::string& client_id);

/// For StreamProcessor: compares each claim with the broker's log. Refuses (LogMismatch) when the number of
/// partitions is another one, the table's offset is not within the log, or the partition's first record, where it is
/// still there, is another identity. `admin` must outlive it and is used by its caller's thread.
CheckLog make_log_check(kafka::Admin& admin, const Target& target);

}  // namespace tidemark::consumers
