#include "producer/intake.h"

#include "schemas/catalogue.h"

#include <doctest/doctest.h>

#include <string>

using namespace tidemark;
using namespace tidemark::producer;

namespace {

schemas::Result<Destination> destination_of(const std::string& type, const std::string& data,
                                            const std::string& time = "2026-01-01T00:00:00Z") {
    schemas::json::Reader reader;
    const auto text = R"({"specversion":"1.0","id":"1","source":"s","type":")" + type + R"(","time":")" + time +
                      R"(","data":)" + data + "}";
    const auto event = schemas::read_event(reader, text);
    REQUIRE(event.ok());
    return find_destination(*event, *schemas::parse_instant("2026-01-01T00:00:00Z"));
}

}  // namespace

TEST_CASE("every type of the catalogue has a destination in its own stream's topic") {
    const auto names = topics();
    REQUIRE(names.size() == schemas::catalogue().size());
    struct Row {
        const char* type;
        const char* data;
        const char* key;
        const char* topic;
    };
    const Row rows[] = {
        {"tidemark.counter.incremented.v1", R"({"key":"a/b","value":-1})", "a/b", "tidemark.counters"},
        {"tidemark.vehicle.registered.v1", R"({"id":12,"make":"BMW","model":"X1"})", "12", "tidemark.vehicles"},
        {"tidemark.vehicle.state_changed.v1", R"({"id":12,"state":"quoted"})", "12", "tidemark.vehicles"},
    };
    std::size_t types = 0;
    for (const auto& stream : schemas::catalogue())
        types += stream.types.size();
    CHECK(types == std::size(rows));
    for (const auto& row : rows) {
        CAPTURE(row.type);
        const auto destination = destination_of(row.type, row.data);
        REQUIRE(destination.ok());
        CHECK(destination->key == row.key);
        CHECK(names.at(destination->topic) == row.topic);
    }
}

TEST_CASE("the edge refuses unknown types, unknown members and events from the future, all at once") {
    CHECK_FALSE(destination_of("tidemark.log.created.v1", R"({"uuid":"x"})").ok());
    CHECK_FALSE(destination_of("tidemark.counter.incremented.v1", R"({"key":"a","value":1,"more":2})").ok());
    const auto both = destination_of("tidemark.vehicle.state_changed.v1", R"({"id":0,"state":"lost"})",
                                     "2026-01-01T01:00:00.000001Z");
    REQUIRE_FALSE(both.ok());
    CHECK(both.violations().size() == 3);
    CHECK(destination_of("tidemark.counter.incremented.v1", R"({"key":"a","value":1})", "2026-01-01T01:00:00Z").ok());
}
