#include "schemas/catalogue.h"

#include "schemas/counters.h"
#include "schemas/event.h"
#include "schemas/vehicles.h"

#include <doctest/doctest.h>

#include <set>
#include <string_view>

namespace tidemark::schemas {

TEST_CASE("the catalogue lists every stream with its topic and types") {
    REQUIRE(catalogue().size() == 2);
    CHECK(catalogue()[0].name == "counters");
    CHECK(catalogue()[0].topic == "tidemark.counters");
    CHECK(catalogue()[1].name == "vehicles");
    CHECK(catalogue()[1].topic == "tidemark.vehicles");
    std::set<std::string_view> seen;
    for (const auto& stream : catalogue()) {
        CHECK_FALSE(stream.types.empty());
        for (const auto type : stream.types) {
            CHECK(type.starts_with("tidemark."));
            CHECK(type.ends_with(".v1"));
            CHECK(seen.insert(type).second);
            CHECK(stream_of_type(type) == &stream);
        }
        CHECK(find_stream(stream.name) == &stream);
    }
    CHECK(seen == std::set<std::string_view>{counters::kIncremented, vehicles::kRegistered, vehicles::kStateChanged});
}

TEST_CASE("an unknown stream or type is none, and the log's identity belongs to no stream") {
    CHECK(find_stream("") == nullptr);
    CHECK(find_stream("tidemark.counters") == nullptr);
    CHECK(stream_of_type("") == nullptr);
    CHECK(stream_of_type("tidemark.counter.incremented.v2") == nullptr);
    CHECK(stream_of_type(kLogCreated) == nullptr);
}

}  // namespace tidemark::schemas
