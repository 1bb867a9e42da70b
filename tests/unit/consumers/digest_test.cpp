#include "consumers/digest.h"

#include <doctest/doctest.h>

using tidemark::consumers::weights_of;

// The SHA-256 of "abc" and of nothing, as FIPS 180-4 has them.
TEST_CASE("a text's weights are the first two words of its SHA-256") {
    CHECK(weights_of("abc").first == 0xba7816bf8f01cfeaU);
    CHECK(weights_of("abc").second == 0x414140de5dae2223U);
    CHECK(weights_of("").first == 0xe3b0c44298fc1c14U);
    CHECK(weights_of("").second == 0x9afbf4c8996fb924U);
}
