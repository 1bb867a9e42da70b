#include "schemas/counters.h"
#include "schemas/event.h"
#include "schemas/vehicles.h"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdlib>
#include <new>
#include <string>
#include <string_view>

namespace {

thread_local std::size_t allocations = 0;

void* allocate(std::size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    throw std::bad_alloc();
}

}  // namespace

// These replace the operators of the whole test program; the count is per thread, so other tests do not disturb it.
void* operator new(std::size_t size) {
    return allocate(size);
}
void* operator new[](std::size_t size) {
    return allocate(size);
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete[](void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
    std::free(memory);
}

namespace tidemark::schemas {
namespace {

constexpr std::string_view kIncrement =
    R"({"specversion":"1.0","id":"019aa5f0-1c01-7abc-9def-0123456789ab","source":"/increment",)"
    R"("type":"tidemark.counter.incremented.v1","time":"2026-11-20T10:00:03.217Z",)"
    R"("idempotencykey":"wigr3m7PXk8Tvo1wO9hV1F-HtoexSSeIgBVhwjRXhPw","data":{"key":"a key longer than \u00e9 short string","value":1}})";

constexpr std::string_view kRegistration =
    R"({"specversion":"1.0","id":"019aa5f0-1c02-7abc-9def-0123456789ab","source":"/vehicles/{id}",)"
    R"("type":"tidemark.vehicle.registered.v1","time":"2026-11-20T10:00:03.217Z",)"
    R"("data":{"id":1,"make":"a make longer than a short string","model":"X1"}})";

void decode_increment(json::Reader& reader) {
    const auto event = read_event(reader, kIncrement);
    REQUIRE(event.ok());
    const auto increment = counters::read(event->data, json::Unknown::ignore, "/data");
    REQUIRE(increment.ok());
    REQUIRE(increment->value == 1);
}

void decode_registration(json::Reader& reader) {
    const auto event = read_event(reader, kRegistration);
    REQUIRE(event.ok());
    REQUIRE(vehicles::read_registered(event->data, json::Unknown::ignore, "/data").ok());
}

}  // namespace

TEST_CASE("the count of allocations sees one") {
    const auto before = allocations;
    const std::string text(100, 'x');
    CHECK(allocations == before + 1);
}

TEST_CASE("a warm reader decodes events without allocating") {
    json::Reader reader;
    decode_increment(reader);
    decode_registration(reader);
    const auto before = allocations;
    for (int i = 0; i < 100; ++i) {
        decode_increment(reader);
        decode_registration(reader);
    }
    CHECK(allocations == before);
}

TEST_CASE("the memory of a giant text is given back when the next one comes") {
    std::string elements = "[0";
    for (int i = 0; i < 100'000; ++i)
        elements.append(",0");
    for (const auto& giant : {"\"" + std::string(2'000'000, 'x') + "\"", elements + "]"}) {
        json::Reader reader;
        decode_increment(reader);
        REQUIRE(reader.parse(giant).ok());
        const auto before = allocations;
        decode_increment(reader);
        CHECK(allocations > before);
    }
}

TEST_CASE("an increment is encoded into a warm string without allocating") {
    const counters::Incremented increment{"a key longer than a short string", 1};
    std::string data;
    std::string bytes;
    std::size_t before = 0;
    for (int i = 0; i < 100; ++i) {
        if (i == 1) before = allocations;
        data.clear();
        bytes.clear();
        counters::append(data, increment);
        append_event(bytes, {.id = "019aa5f0-1c01-7abc-9def-0123456789ab",
                             .source = "/increment",
                             .type = counters::kIncremented,
                             .time = Timestamp{},
                             .idempotency_key = "wigr3m7PXk8Tvo1wO9hV1F-HtoexSSeIgBVhwjRXhPw",
                             .traceparent = std::nullopt,
                             .data = data});
    }
    CHECK(allocations == before);
}

}  // namespace tidemark::schemas
