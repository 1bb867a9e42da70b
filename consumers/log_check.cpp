#include "consumers/log_check.h"

#include "schemas/event.h"

#include <numeric>

namespace tidemark::consumers {

std::optional<std::string> read_log_uuid(kafka::Admin& admin, const std::string& topic, std::int32_t partition) {
    const auto place = "topic " + topic + ", partition " + std::to_string(partition);
    const auto marks = admin.watermarks(topic, partition + 1).at(static_cast<std::size_t>(partition));
    if (marks.high == 0) return std::nullopt;
    if (marks.low > 0) {
        throw Refused(place + ": its first record is gone (the log starts at " + std::to_string(marks.low) +
                      "). Tables can only be built from a log's start: set retention.ms=-1, and move to a new topic");
    }
    const auto record = admin.read_at(topic, partition, 0);
    if (!record) return std::nullopt;
    schemas::json::Reader reader;
    if (record->value) {
        const auto event = schemas::read_event(reader, *record->value);
        if (event && event->type == schemas::kLogCreated && event->data) {
            if (const auto uuid = event->data.find("uuid"); uuid && uuid.is(schemas::json::Kind::string)) {
                return std::string(uuid.text());
            }
        }
    }
    throw Refused(place + ": its first record is not a log's identity (" + std::string(schemas::kLogCreated) +
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
        const auto found = read_log_uuid(admin, target.topic, partition);
        if (found == target.log_uuid) continue;
        throw Refused("topic " + target.topic + ", partition " + std::to_string(partition) + ": this is log " +
                      found.value_or("(none)") + ", the tables come from " + target.log_uuid +
                      ": the topic was recreated. Restore it, or drop the database and migrate again to start from "
                      "what the topic holds now");
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
        const auto place = "topic " + topic + ", partition " + std::to_string(claim.partition);
        const auto count = admin.partition_count(topic);
        if (count != partitions) {
            throw LogMismatch(place + ": the topic has " + (count ? std::to_string(*count) : std::string("no")) +
                              " partitions, the tables come from " + std::to_string(partitions) +
                              ". Move to a new topic by export and import");
        }
        const auto marks = admin.watermarks(topic, partitions).at(static_cast<std::size_t>(claim.partition));
        if (claim.next_offset < marks.low || claim.next_offset > marks.high) {
            throw LogMismatch(place + ": the tables stand at offset " + std::to_string(claim.next_offset) +
                              ", the log holds [" + std::to_string(marks.low) + ", " + std::to_string(marks.high) +
                              "). It was recreated, truncated or restored from an older copy: compare with "
                              "`tidemark-consumer status`");
        }
        if (marks.low > 0) return;  // the identity record is gone; what is still to be read is there
        std::optional<std::string> found;
        try {
            found = read_log_uuid(admin, topic, claim.partition);
        } catch (const Refused& refused) {
            throw LogMismatch(refused.what());
        }
        if (found != uuid)
            throw LogMismatch(place + ": this is log " + found.value_or("(none)") + ", the tables come from " + uuid);
    };
}

}  // namespace tidemark::consumers
