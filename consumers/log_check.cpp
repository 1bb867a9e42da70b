#include "consumers/log_check.h"

#include "schemas/catalogue.h"
#include "schemas/event.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace tidemark::consumers {

namespace {

constexpr const char* kDoctorKnows = ": `tidemark-consumer doctor` says what mends it";

std::string place_of(const std::string& topic, std::int32_t partition) {
    return "topic " + topic + ", partition " + std::to_string(partition);
}

// What a partition begins with.
struct Beginning {
    std::int64_t low = 0;  // above 0: its first records are gone, and nobody knows what they were
    bool is_empty = false;
    std::string uuid;  // empty: the first record is no log's identity
};

Beginning read_beginning(kafka::Admin& admin, const std::string& topic, std::int32_t partition,
                         const kafka::Watermarks& marks) {
    if (marks.low > 0) return {marks.low, false, {}};
    const auto record = marks.high > 0 ? admin.read_at(topic, partition, 0) : std::nullopt;
    if (!record) return {0, true, {}};
    schemas::json::Reader reader;
    if (record->value) {
        const auto event = schemas::read_event(reader, *record->value);
        if (event && event->type == schemas::kLogCreated && event->data) {
            if (const auto uuid = event->data.find("uuid"); uuid && uuid.is(schemas::json::Kind::string))
                return {0, false, std::string(uuid.text())};
        }
    }
    return {};
}

// The same, of a log that is to be folded from its start.
Beginning read_start(kafka::Admin& admin, const std::string& topic, std::int32_t partition,
                     const kafka::Watermarks& marks) {
    auto found = read_beginning(admin, topic, partition, marks);
    if (found.low == 0) return found;
    throw LogRefused(place_of(topic, partition) + ": its first record is gone (the log starts at " +
                         std::to_string(found.low) + "), and tables can only be built and verified from a log's start",
                     "back up the database, which alone has what is gone; for a log that can be folded again, of "
                     "what is left, " +
                         move_to_new_log());
}

// What is wrong when a partition does not begin as the registered log does, which has its identity in each.
std::optional<LogRefused> compare(const Beginning& found, const std::string& topic, std::int32_t partition,
                                  const std::string& registered) {
    if (found.low > 0 || found.uuid == registered) return std::nullopt;
    const bool is_foreign = !found.is_empty && found.uuid.empty();
    const auto what = found.is_empty ? "it is empty"
                      : is_foreign   ? "it begins with a record of something else"
                                     : "it is log " + found.uuid;
    return LogRefused(place_of(topic, partition) + ": the topic was recreated, or this is another cluster: " + what +
                          ", the tables come from log " + registered,
                      "let --brokers and --owner-dsn name a pair that belongs together, or restore the topic; to have "
                      "what it holds now, " +
                          (is_foreign ? move_to_new_log() : fold_anew()) +
                          "; then import what exports you have of the log that is lost");
}

}  // namespace

std::string fold_anew() {
    return "stop every program, and with an empty database in the settings: tidemark-consumer migrate; "
           "tidemark-consumer run";
}

std::string restore_end_of_log() {
    return "stop the writers, before other records get those offsets, and restore the log's end; to have what it still "
           "holds, " +
           fold_anew();
}

// The topics' names are fixed, and so another cluster is the place where they are free.
std::string move_to_new_log() {
    std::string out;
    std::string in;
    for (const auto& stream : schemas::catalogue()) {
        const std::string name(stream.name);
        out += "tidemark-producer export " + name + " --output " + name + ".ndjson; ";
        in += "; tidemark-producer import " + name + ".ndjson";
    }
    return "stop the writers: " + out +
           "then with another cluster and an empty database in the settings: tidemark-consumer migrate; "
           "tidemark-consumer run" +
           in;
}

std::optional<std::string> read_log_uuid(kafka::Admin& admin, const std::string& topic, std::int32_t partition) {
    const auto marks = admin.watermarks(topic, partition + 1).at(static_cast<std::size_t>(partition));
    auto found = read_start(admin, topic, partition, marks);
    if (found.is_empty) return std::nullopt;
    if (!found.uuid.empty()) return std::move(found.uuid);
    throw LogRefused(place_of(topic, partition) + ": its first record is not a log's identity (" +
                         std::string(schemas::kLogCreated) +
                         "), so this topic was not made by `tidemark-consumer migrate`",
                     "restore the topic if there was another; to fold what it holds, " + move_to_new_log());
}

void check_log_is_whole(kafka::Admin& admin, const Target& target) {
    const auto count = admin.partition_count(target.topic);
    if (count != target.partitions) {
        throw LogRefused("topic " + target.topic + " has " + (count ? std::to_string(*count) : std::string("no")) +
                             " partitions, the registered log has " + std::to_string(target.partitions) +
                             ": their number is part of a log's identity",
                         move_to_new_log());
    }
    const auto marks = admin.watermarks(target.topic, target.partitions);
    for (std::int32_t partition = 0; partition < target.partitions; ++partition) {
        const auto found = read_start(admin, target.topic, partition, marks[static_cast<std::size_t>(partition)]);
        if (const auto wrong = compare(found, target.topic, partition, target.log_uuid)) throw *wrong;
    }
}

void check_log_reaches(kafka::Admin& admin, const Target& target, const std::vector<std::int64_t>& next) {
    const auto ends = admin.end_offsets(target.topic, target.partitions);
    for (std::size_t n = 0; n < std::min(next.size(), ends.size()); ++n) {
        if (next[n] <= ends[n]) continue;
        throw LogRefused(place_of(target.topic, static_cast<std::int32_t>(n)) + ": the log ends at offset " +
                             std::to_string(ends[n]) + ", the tables of " +
                             std::string(target.projection->stream().name) + " stand at " + std::to_string(next[n]) +
                             ": records that were folded are gone, and no replay can come as far",
                         restore_end_of_log());
    }
}

std::optional<std::string> find_other_log(kafka::Admin& admin, const Target& target) {
    const auto count = admin.partition_count(target.topic);
    if (!count) return std::nullopt;  // its readers are told so by themselves
    if (count != target.partitions) {
        return "topic " + target.topic + " has " + std::to_string(*count) + " partitions, the tables come from " +
               std::to_string(target.partitions) + kDoctorKnows;
    }
    const auto marks = admin.watermarks(target.topic, 1).front();
    const auto wrong = compare(read_beginning(admin, target.topic, 0, marks), target.topic, 0, target.log_uuid);
    if (!wrong) return std::nullopt;
    return wrong->reason() + kDoctorKnows;
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
                              " partitions, the tables come from " + std::to_string(partitions) + kDoctorKnows);
        }
        const auto marks = admin.watermarks(topic, partitions).at(static_cast<std::size_t>(claim.partition));
        // Where the identity record is gone, what is still to be read may be there.
        const auto wrong = compare(read_beginning(admin, topic, claim.partition, marks), topic, claim.partition, uuid);
        if (wrong) throw LogMismatch(wrong->reason() + kDoctorKnows);
        if (claim.next_offset < marks.low || claim.next_offset > marks.high) {
            throw LogMismatch(place + ": the tables stand at offset " + std::to_string(claim.next_offset) +
                              ", the log holds [" + std::to_string(marks.low) + ", " + std::to_string(marks.high) +
                              "). It was recreated, truncated or restored from an older copy: `tidemark-consumer "
                              "doctor` says what mends it");
        }
    };
}

}  // namespace tidemark::consumers
