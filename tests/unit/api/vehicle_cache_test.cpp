#include "api/vehicle_cache.h"

#include "api/read.h"
#include "tests/support/fake_clock.h"

#include <doctest/doctest.h>

#include <string>

using namespace tidemark;
using namespace tidemark::api;
using namespace std::chrono_literals;

namespace {

struct Fixture {
    explicit Fixture(VehicleCache::Limits limits = {}) : cache(limits) {}

    void put(std::int64_t vehicle, std::chrono::microseconds age = 0s, std::string body = "body",
             std::int32_t generation = 1) {
        auto entry = std::make_shared<VehicleCache::Entry>();
        entry->body = std::move(body);
        entry->as_of = clock.now() - age;
        cache.put(key(vehicle, generation), std::move(entry), clock.now(), clock.steady());
    }
    VehicleCache::Shared find(std::int64_t vehicle, std::int32_t generation = 1) {
        return cache.find(key(vehicle, generation), clock.steady());
    }
    VehicleCache::Joined join(std::int64_t vehicle, std::int32_t generation = 1) {
        return cache.find_or_join(key(vehicle, generation), std::make_shared<Read>(), clock.steady());
    }
    static VehicleCache::Key key(std::int64_t vehicle, std::int32_t generation = 1) {
        return {vehicle, *schemas::parse_instant("2022-09-12T10:00:00Z"), generation};
    }

    tests::FakeClock clock;
    VehicleCache cache;
};

}  // namespace

TEST_CASE("an answer lives 50 seconds when its data are fresh") {
    Fixture f;
    f.put(3);
    f.clock.advance(50s - 1us);
    CHECK(f.find(3));
    f.clock.advance(1us);
    CHECK_FALSE(f.find(3));
    CHECK(f.cache.counters().entries == 0);
}

TEST_CASE("an answer dies when its data are a minute old, and is not kept when they are that already") {
    Fixture f;
    f.put(3, 20s);
    f.clock.advance(40s - 1us);
    CHECK(f.find(3));
    f.clock.advance(1us);
    CHECK_FALSE(f.find(3));
    f.put(4, 60s);
    CHECK_FALSE(f.find(4));
}

TEST_CASE("a wall clock that is set back keeps no answer alive") {
    Fixture f;
    f.put(3);
    f.clock.jump(-1h);
    f.clock.advance(50s);
    CHECK_FALSE(f.find(3));
}

TEST_CASE("the vehicle and the instant are the key") {
    Fixture f;
    f.put(3);
    CHECK_FALSE(f.find(4));
    auto other = Fixture::key(3);
    other.at += 1us;
    CHECK_FALSE(f.cache.find(other, f.clock.steady()));
    other = {3, *schemas::parse_instant("2022-09-12 12:00:00+02"), 1};
    CHECK(f.cache.find(other, f.clock.steady()));
}

TEST_CASE("beyond its entries the cache gives up the least recently used") {
    Fixture f({.entries = 2});
    f.put(1);
    f.put(2);
    CHECK(f.find(1));
    f.put(3);
    CHECK(f.find(1));
    CHECK_FALSE(f.find(2));
    CHECK(f.find(3));
    CHECK(f.cache.counters().entries == 2);
}

TEST_CASE("beyond its bytes the cache gives up entries") {
    Fixture f({.entries = 100, .bytes = 2 * (VehicleCache::kOverhead + 1'000)});
    f.put(1, 0s, std::string(1'000, 'x'));
    f.put(2, 0s, std::string(1'000, 'x'));
    CHECK(f.cache.counters().bytes == 2 * (VehicleCache::kOverhead + 1'000));
    f.put(3, 0s, std::string(1'500, 'x'));
    CHECK(f.cache.counters().entries == 1);
    CHECK(f.cache.counters().bytes <= 2 * (VehicleCache::kOverhead + 1'000));
    f.put(4, 0s, std::string(100'000, 'x'));
    CHECK(f.cache.counters().entries == 0);
    CHECK(f.cache.counters().bytes == 0);
}

TEST_CASE("newer data replace older, older data do not replace newer") {
    Fixture f;
    f.put(1, 2s, "old");
    f.put(1, 1s, "new");
    f.put(1, 3s, "older");
    CHECK(f.find(1)->body == "new");
    CHECK(f.cache.counters().entries == 1);
}

TEST_CASE("misses at the same time make one query, and its answer reaches all of them") {
    Fixture f;
    CHECK(f.join(1).leads);
    CHECK_FALSE(f.join(1).leads);
    CHECK_FALSE(f.join(1).leads);
    CHECK(f.join(2).leads);
    f.put(1);
    CHECK(f.cache.land(Fixture::key(1)).size() == 3);
    CHECK(f.cache.land(Fixture::key(1)).empty());
    const auto hit = f.join(1);
    CHECK(hit.entry);
    CHECK_FALSE(hit.leads);
    CHECK(f.cache.counters().hits == 1);
    CHECK(f.cache.counters().misses == 4);
    CHECK(f.cache.counters().joins == 2);
}

TEST_CASE("what was read from one generation is not given to those who ask for another, however fresh it is") {
    Fixture f;
    f.put(1, 2s, "wrong", 1);
    CHECK_FALSE(f.find(1, 2));
    CHECK(f.join(1, 2).leads);
    f.put(1, 3s, "corrected", 2);
    CHECK(f.find(1, 2)->body == "corrected");
    f.put(1, 0s, "wrong", 1);  // of a query that began before the swap
    CHECK(f.find(1, 2)->body == "corrected");
}

TEST_CASE("those who ask for another generation do not wait for a query that began before the swap") {
    Fixture f;
    CHECK(f.join(1, 1).leads);
    CHECK(f.join(1, 2).leads);
    CHECK(f.cache.land(Fixture::key(1, 1)).size() == 1);
    CHECK(f.cache.land(Fixture::key(1, 2)).size() == 1);
}

TEST_CASE("after a query that gave nothing to keep, the next miss makes its own") {
    Fixture f;
    CHECK(f.join(1).leads);
    CHECK(f.cache.land(Fixture::key(1)).size() == 1);
    CHECK(f.join(1).leads);
}
