#include "infra/kafka/properties.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>

using tidemark::kafka::read_properties;

namespace {

// A file of this text that only its owner may read; gone with the object.
struct PropertiesFile {
    explicit PropertiesFile(const std::string& text, mode_t mode = 0600) {
        char name[] = "/tmp/tidemark-properties-XXXXXX";
        const int descriptor = ::mkstemp(name);
        REQUIRE(descriptor >= 0);
        ::close(descriptor);
        path = name;
        std::ofstream(path) << text;
        REQUIRE(::chmod(name, mode) == 0);
    }
    ~PropertiesFile() { ::unlink(path.c_str()); }
    std::string path;
};

}  // namespace

TEST_CASE("client settings are read as name=value lines, comments and blanks aside") {
    const PropertiesFile file("# a cluster with TLS\n\n security.protocol = SSL\nsasl.password=a=b\r\nempty=\n");
    const auto properties = read_properties(file.path);
    REQUIRE(properties.size() == 3);
    CHECK(properties.at("security.protocol") == "SSL");
    CHECK(properties.at("sasl.password") == "a=b");
    CHECK(properties.at("empty").empty());
    CHECK(read_properties("").empty());
}

TEST_CASE("a client settings file that is broken, double, missing or readable by everybody is refused by name") {
    const PropertiesFile broken("a=1\nnonsense\n");
    CHECK_THROWS_WITH_AS(read_properties(broken.path), doctest::Contains("line 2"), std::runtime_error);
    const PropertiesFile twice("a=1\na=2\n");
    CHECK_THROWS_WITH_AS(read_properties(twice.path), doctest::Contains("twice"), std::runtime_error);
    CHECK_THROWS_WITH_AS(read_properties("/nonexistent/file"), doctest::Contains("/nonexistent/file"),
                         std::runtime_error);
    const PropertiesFile open("a=1\n", 0644);
    CHECK_THROWS_WITH_AS(read_properties(open.path), doctest::Contains("chmod 600"), std::runtime_error);
}
