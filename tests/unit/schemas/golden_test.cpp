#include "listing.h"
#include "schemas/catalogue.h"
#include "schemas/counters.h"
#include "schemas/dead_letter.h"
#include "schemas/event.h"
#include "schemas/vehicles.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace tidemark::schemas {
namespace {

/// A file of tests/golden/events: what it must decode to, for ever. Rows are added, never changed.
struct Golden {
    std::string_view file;
    std::string_view time;        ///< empty: the event has none
    std::string_view key;         ///< counter's key, vehicle's make, log's uuid
    std::int64_t number;          ///< increment, vehicle's id
    std::string_view other = "";  ///< vehicle's model or state
    std::string_view idempotency_key = "";
};

constexpr std::string_view kTime = "2026-11-20T10:00:03.217Z";
constexpr std::string_view kIdentity = "wigr3m7PXk8Tvo1wO9hV1F-HtoexSSeIgBVhwjRXhPw";
const std::string kKeyOf256Bytes = std::string(254, 'k') + "é";
const std::string kMakeOf128Bytes = std::string(128, 'm');
const std::string kModelOf128Bytes = [] {
    std::string out;
    for (int i = 0; i < 64; ++i)
        out.append("é");
    return out;
}();

const std::vector<Golden> kIncrements{
    {"counter_incremented_plain", kTime, "abcdef", 1},
    {"counter_incremented_zero", kTime, "abcdef", 0},
    {"counter_incremented_smallest", kTime, "abcdef", -9'007'199'254'740'991},
    {"counter_incremented_largest", kTime, "abcdef", 9'007'199'254'740'991},
    {"counter_incremented_key_of_1_byte", kTime, "a", 1},
    {"counter_incremented_key_of_256_bytes", kTime, kKeyOf256Bytes, 1},
    {"counter_incremented_key_with_quotes", kTime, "\"'\\", 1},
    {"counter_incremented_key_with_percent", kTime, "100%25%", 1},
    {"counter_incremented_key_with_slashes", kTime, "/a/../b//", 1},
    {"counter_incremented_key_with_emoji", kTime, "\U0001F469\u200D\U0001F469\u200D\U0001F467 \U0001F600", 1},
    {"counter_incremented_key_with_newline", kTime, "line\nbreak\r\t\b\f\x01\x1F\x7F", 1},
    {"counter_incremented_key_composed", kTime, "\xC3\xA9", 1},
    {"counter_incremented_key_decomposed", kTime, "e\xCC\x81", 1},
    {"counter_incremented_key_right_to_left", kTime, "\u05E9\u05DC\u05D5\u05DD\u202E", 1},
    {"counter_incremented_key_noncharacter", kTime, "\xEF\xBF\xBE\xEF\xBF\xBF\xF4\x8F\xBF\xBF", 1},
    {"counter_incremented_key_of_spaces", kTime, " \xC2\xA0\xEF\xBB\xBF", 1},
    {"counter_incremented_with_idempotency_key", kTime, "abcdef", 5, "", kIdentity},
    {"counter_incremented_with_traceparent", kTime, "abcdef", 1},
    {"counter_incremented_with_both", kTime, "abcdef", 1, "", "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU"},
    {"counter_incremented_whole_second", "2026-11-20T10:00:03Z", "abcdef", 1},
    {"counter_incremented_microsecond", "2026-11-20T10:00:03.000001Z", "abcdef", 1},
    {"counter_incremented_first_instant", "0001-01-01T00:00:00Z", "abcdef", 1},
    {"counter_incremented_last_instant", "9999-12-31T23:59:59.999999Z", "abcdef", 1},
    {"foreign_without_time", "", "abcdef", 7},
    {"foreign_unknown_attributes", "2026-11-20T10:00:03Z", "abcdef", 7},
    {"foreign_unknown_members", "2026-11-20T10:00:03Z", "abcdef", 7},
    {"foreign_in_other_order", kTime, "abc\xC3\xA9\xF0\x9F\x98\x80/", 0},
};

const std::vector<Golden> kRegistrations{
    {"vehicle_registered_plain", "2022-09-10T10:00:00Z", "BMW", 1, "X1"},
    {"vehicle_registered_largest_id", kTime, "Citro\xC3\xABn", 9'007'199'254'740'991, "\"C3\" 1/2"},
    {"vehicle_registered_longest_names", kTime, kMakeOf128Bytes, 2, kModelOf128Bytes},
};

const std::vector<Golden> kStateChanges{
    {"vehicle_state_changed_quoted", "2022-09-11T09:11:45Z", "", 3, "quoted"},
    {"vehicle_state_changed_selling", "2022-09-11T23:21:38Z", "", 3, "selling"},
    {"vehicle_state_changed_sold", "2022-09-12T12:41:41Z", "", 3, "sold", kIdentity},
    {"foreign_vehicle_state", "2022-09-12T12:41:41Z", "", 3, "sold"},
};

const std::vector<Golden> kLogs{
    {"log_created", kTime, "019aa5f0-0000-7abc-9def-0123456789ab", 0},
};

// Number: the letter's offset; other: the edit or the note.
const std::vector<Golden> kRedrives{
    {"dead_letter_redriven", "2026-11-21T22:00:00Z", "", 17},
    {"dead_letter_redriven_edited", "2026-11-21T22:00:00.250Z", "", 0, R"({"specversion":"1.0"})"},
    {"dead_letter_redriven_seen", "2026-11-22T03:00:00Z", "", 18, "{}"},
};

const std::vector<Golden> kDiscards{
    {"dead_letter_discarded", "2026-11-21T22:00:00Z", "", 9'223'372'036'854'775'807, R"(a test of "somebody" else)"},
};

std::filesystem::path folder() {
    return std::filesystem::path(TIDEMARK_SOURCE_DIR) / "tests/golden/events";
}

/// The event's bytes: the file without the newline that ends its one line.
std::string read_file(std::string_view name) {
    std::ifstream in(folder() / (std::string(name) + ".json"), std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), {}};
    if (!bytes.ends_with('\n'))
        throw std::runtime_error("no such golden file, or it does not end its line: " + std::string(name));
    bytes.pop_back();
    return bytes;
}

/// Checks the envelope; what we wrote ourselves (all but the foreign ones) must be what we would write today.
void check_envelope(const Golden& golden, std::string_view type, const Event& event, std::string_view bytes,
                    std::string_view data) {
    CHECK(event.type == type);
    CHECK((event.time ? format_instant(*event.time) : "") == golden.time);
    CHECK(event.idempotency_key.value_or("") == golden.idempotency_key);
    if (golden.file.starts_with("foreign_")) return;
    std::string written;
    append_event(written,
                 {event.id, event.source, event.type, *event.time, event.idempotency_key, event.traceparent, data});
    CHECK(written == bytes);
}

}  // namespace

TEST_CASE("golden increments decode for ever") {
    json::Reader reader;
    for (const auto& golden : kIncrements) {
        CAPTURE(golden.file);
        const auto bytes = read_file(golden.file);
        const auto event = read_event(reader, bytes);
        REQUIRE(listing(event) == "");
        const auto increment = counters::read(event->data, json::Unknown::ignore, "/data");
        REQUIRE(listing(increment) == "");
        CHECK(increment->key == golden.key);
        CHECK(increment->value == golden.number);
        std::string data;
        counters::append(data, *increment);
        check_envelope(golden, counters::kIncremented, *event, bytes, data);
    }
}

TEST_CASE("golden registrations decode for ever") {
    json::Reader reader;
    for (const auto& golden : kRegistrations) {
        CAPTURE(golden.file);
        const auto bytes = read_file(golden.file);
        const auto event = read_event(reader, bytes);
        REQUIRE(listing(event) == "");
        const auto registered = vehicles::read_registered(event->data, json::Unknown::ignore, "/data");
        REQUIRE(listing(registered) == "");
        CHECK(registered->id == golden.number);
        CHECK(registered->make == golden.key);
        CHECK(registered->model == golden.other);
        std::string data;
        vehicles::append(data, *registered);
        check_envelope(golden, vehicles::kRegistered, *event, bytes, data);
    }
}

TEST_CASE("golden changes of state decode for ever") {
    json::Reader reader;
    for (const auto& golden : kStateChanges) {
        CAPTURE(golden.file);
        const auto bytes = read_file(golden.file);
        const auto event = read_event(reader, bytes);
        REQUIRE(listing(event) == "");
        const auto changed = vehicles::read_state_changed(event->data, json::Unknown::ignore, "/data");
        REQUIRE(listing(changed) == "");
        CHECK(changed->id == golden.number);
        CHECK(vehicles::to_string(changed->state) == golden.other);
        std::string data;
        vehicles::append(data, *changed);
        check_envelope(golden, vehicles::kStateChanged, *event, bytes, data);
    }
}

TEST_CASE("golden decisions about dead letters decode for ever") {
    json::Reader reader;
    for (const auto& golden : kRedrives) {
        CAPTURE(golden.file);
        const auto bytes = read_file(golden.file);
        const auto event = read_event(reader, bytes);
        REQUIRE(listing(event) == "");
        const auto redriven = dead_letter::read_redriven(event->data, json::Unknown::ignore, "/data");
        REQUIRE(listing(redriven) == "");
        CHECK(redriven->offset == golden.number);
        CHECK(redriven->edit.value_or("") == golden.other);
        std::string data;
        dead_letter::append(data, *redriven);
        check_envelope(golden, dead_letter::kRedriven, *event, bytes, data);
    }
    for (const auto& golden : kDiscards) {
        CAPTURE(golden.file);
        const auto bytes = read_file(golden.file);
        const auto event = read_event(reader, bytes);
        REQUIRE(listing(event) == "");
        const auto discarded = dead_letter::read_discarded(event->data, json::Unknown::ignore, "/data");
        REQUIRE(listing(discarded) == "");
        CHECK(discarded->offset == golden.number);
        CHECK(discarded->note.value_or("") == golden.other);
        std::string data;
        dead_letter::append(data, *discarded);
        check_envelope(golden, dead_letter::kDiscarded, *event, bytes, data);
    }
}

TEST_CASE("golden log identities decode for ever") {
    json::Reader reader;
    for (const auto& golden : kLogs) {
        CAPTURE(golden.file);
        const auto bytes = read_file(golden.file);
        const auto event = read_event(reader, bytes);
        REQUIRE(listing(event) == "");
        CHECK(event->data.find("uuid").text() == golden.key);
        std::string data;
        json::append_value(data, event->data);
        check_envelope(golden, kLogCreated, *event, bytes, data);
    }
}

TEST_CASE("keys that look alike are different keys") {
    json::Reader reader;
    std::set<std::string> keys;
    std::size_t plain = 0;
    for (const auto& golden : kIncrements) {
        const auto event = read_event(reader, read_file(golden.file));
        keys.insert(std::string(counters::read(event->data, json::Unknown::ignore)->key));
        plain += golden.key == "abcdef" ? 1 : 0;
    }
    CHECK(keys.size() == kIncrements.size() - plain + 1);
    CHECK(keys.contains("\xC3\xA9"));
    CHECK(keys.contains("e\xCC\x81"));
}

TEST_CASE("every golden file is expected to be something, and every type has one") {
    std::set<std::string> expected;
    for (const auto* table : {&kIncrements, &kRegistrations, &kStateChanges, &kLogs, &kRedrives, &kDiscards}) {
        for (const auto& golden : *table)
            CHECK(expected.insert(std::string(golden.file) + ".json").second);
    }
    std::set<std::string> found;
    std::set<std::string> types;
    json::Reader reader;
    for (const auto& entry : std::filesystem::directory_iterator(folder())) {
        found.insert(entry.path().filename().string());
        types.insert(std::string(read_event(reader, read_file(entry.path().stem().string()))->type));
    }
    CHECK(found == expected);
    for (const auto& stream : catalogue()) {
        for (const auto type : stream.types)
            CHECK(types.contains(std::string(type)));
    }
    CHECK(types.contains(std::string(kLogCreated)));
}

}  // namespace tidemark::schemas
