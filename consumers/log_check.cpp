#include "consumers/log_check.h"

#include "schemas/event.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tidemark::consumers {

namespace {

std::string place_of(const std::string& topic, std::int32_t partition) {
    return "topic " + topic + ", partition " + std::to_string(partition);
}

// What a partition begins with.
struct Beginning {
    bool is_empty = false;
    std::string uuid;  // empty: a record that is no log's identity
};

Beginning read_beginning(kafka::Admin& admin, const std::string& topic, std::int32_t partition) {
    const auto marks = admin.watermarks(topic, partition + 1).at(static_cast<std::size_t>(partition));
    if (marks.high == 0) return {true, {}};
    if (marks.low > 0) {
        throw Refused(place_of(topic, partition) + ": its first record is gone (the log starts at " +
                      std::to_string(marks.low) +
                      "). Tables can only be built from a log's start: set retention.ms=-1, and move to a new topic");
    }
    const auto record = admin.read_at(topic, partition, 0);
    if (!record) return {true, {}};
    schemas::json::Reader reader;
    if (record->value) {
        const auto event = schemas::read_event(reader, *record->value);
        if (event && event->type == schemas::kLogCreated && event->data) {
            if (const auto uuid = event->data.find("uuid"); uuid && uuid.is(schemas::json::Kind::string))
                return {false, std::string(uuid.text())};
        }
    }
    return {};
}

// What is wrong when the partition does not begin as the registered log does, which has its identity in each.
std::optional<std::string> find_other_log(kafka::Admin& admin, const std::string& topic, std::int32_t partition,
                                          const std::string& registered) {
    const auto found = read_beginning(admin, topic, partition);
    if (found.uuid == registered) return std::nullopt;
    const auto what = found.is_empty       ? "it is empty"
                      : found.uuid.empty() ? "it begins with a record of something else"
                                           : "it is log " + found.uuid;
    return place_of(topic, partition) + ": the topic was recreated: " + what + ", the tables come from log " +
           registered +
           ". Restore it; or export what it holds, delete it, empty the database, migrate, and import that and what "
           "was exported of the old one";
}

}  // namespace

std::optional<std::string> read_log_uuid(kafka::Admin& admin, const std::string& topic, std::int32_t partition) {
    auto found = read_beginning(admin, topic, partition);
    if (found.is_empty) return std::nullopt;
    if (!found.uuid.empty()) return std::move(found.uuid);
    throw Refused(place_of(topic, partition) + ": its first record is not a log's identity (" +
                  std::string(schemas::kLogCreated) +
                  "), so this topic was not made by `tidemark-consumer migrate`. Give it another name, and export and "
                  "import its events");
}

void check_log_is_whole(kafka::Admin& admin, const Target& target) {
    const auto count = admin.partition_count(target.topic);
    if (count != target.partitions) {
        throw Refused("topic " + target.topic + " has " + (count ? std::to_string(*count) : std::string("no")) +
                      " partitions, the registered log has " + std::to_string(target.partitions) +
                      ": their number is part of a log's identity. Move to a new topic by export and import");
    }
    for (std::int32_t partition = 0; partition < target.partitions; ++partition) {
        if (const auto wrong = find_other_log(admin, target.topic, partition, target.log_uuid)) throw Refused(*wrong);
    }
}

void check_log_reaches(kafka::Admin& admin, const Target& target, const std::vector<std::int64_t>& next) {
    const auto ends = admin.end_offsets(target.topic, target.partitions);
    for (std::size_t n = 0; n < std::min(next.size(), ends.size()); ++n) {
        if (next[n] <= ends[n]) continue;
        throw Refused(place_of(target.topic, static_cast<std::int32_t>(n)) + ": the log ends at offset " +
                      std::to_string(ends[n]) + ", the tables of " + std::string(target.projection->stream().name) +
                      " stand at " + std::to_string(next[n]) +
                      ": records that were folded are gone, and no replay can come as far. Restore the log; or empty "
                      "the database and migrate, to have what is left of it");
    }
}

kafka::ConsumerOptions reader_options(const Target& target, const std::string& brokers,
                                      const std::map<std::string, std::string>& kafka_properties,
                                      const std::string& client_id) {
    kafka::ConsumerOptions reader;
    reader.brokers = brokers;
    reader.topic = target.topic;
    // It joins none, but a client that names one needs the right to.
    reader.group = target.consumer_group();
    reader.client_id = client_id;
    reader.properties = kafka_properties;
    reader.partitions.resize(static_cast<std::size_t>(target.partitions));
    std::iota(reader.partitions.begin(), reader.partitions.end(), 0);
    return reader;
}

CheckLog make_log_check(kafka::Admin& admin, const Target& target) {
    return [&admin, topic = target.topic, partitions = target.partitions, uuid = target.log_uuid](const Claim& claim) {
        const auto place = place_of(topic, claim.partition);
        const auto count = admin.partition_count(topic);
        if (count != partitions) {
            throw LogMismatch(place + ": the topic has " + (count ? std::to_string(*count) : std::string("no")) +
                              " partitions, the tables come from " + std::to_string(partitions) +
                              ". Move to a new topic by export and import");
        }
        const auto marks = admin.watermarks(topic, partitions).at(static_cast<std::size_t>(claim.partition));
        // Where the identity record is gone, what is still to be read may be there.
        const auto wrong = marks.low > 0 ? std::nullopt : find_other_log(admin, topic, claim.partition, uuid);
        if (wrong) throw LogMismatch(*wrong);
        if (claim.next_offset < marks.low || claim.next_offset > marks.high) {
            throw LogMismatch(place + ": the tables stand at offset " + std::to_string(claim.next_offset) +
                              ", the log holds [" + std::to_string(marks.low) + ", " + std::to_string(marks.high) +
                              "). It was truncated or restored from an older copy: compare with "
                              "`tidemark-consumer status`");
        }
    };
}

}  // namespace tidemark::consumers
