#include "producer/convert.h"

#include <doctest/doctest.h>

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using namespace tidemark;
using namespace tidemark::producer;
using namespace std::chrono_literals;

namespace {

/// A folder of its own, with files in it.
class Folder {
public:
    Folder() { std::filesystem::create_directory(path_); }
    ~Folder() { std::filesystem::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    std::string write(const std::string& name, const std::string& text) {
        const auto file = path_ / name;
        std::ofstream(file, std::ios::binary) << text;
        return file.string();
    }

private:
    std::filesystem::path path_ =
        std::filesystem::temp_directory_path() / ("tidemark_convert_" + std::to_string(::getpid()));
};

struct Converted {
    ConvertReport report;
    std::vector<std::string> lines;
    std::string errors;
};

using Convert = ConvertReport (*)(const ConvertOptions&, std::ostream&, std::ostream&);

Converted run(Convert convert, ConvertOptions options) {
    options.now = schemas::Timestamp(1'800'000'000s);
    std::ostringstream out;
    std::ostringstream errors;
    Converted converted;
    converted.report = convert(options, out, errors);
    converted.errors = errors.str();
    std::istringstream lines(out.str());
    for (std::string line; std::getline(lines, line);)
        converted.lines.push_back(line);
    CHECK(static_cast<std::int64_t>(converted.lines.size()) == converted.report.events);
    return converted;
}

// Behind the id, which is looked at by itself.
std::string after_id(const std::string& line) {
    return line.substr(line.find("\"source\""));
}
std::string id_of(const std::string& line) {
    const auto begin = line.find(R"("id":")") + 6;
    return line.substr(begin, line.find('"', begin) - begin);
}

Converted vehicles(const std::string& vehicles, const std::string& state_logs, const std::string& time = "") {
    Folder folder;
    ConvertOptions options;
    options.vehicles = folder.write("v.csv", vehicles);
    options.state_logs = folder.write("s.csv", state_logs);
    if (!time.empty()) options.time = schemas::parse_instant(time);
    return run(convert_vehicles, options);
}

Converted counters(const std::string& rows) {
    Folder folder;
    ConvertOptions options;
    options.counters = folder.write("c.csv", rows);
    options.time = schemas::parse_instant("2026-11-20T10:00:00Z");
    return run(convert_counters, options);
}

}  // namespace

TEST_CASE("a vehicle is registered when its first state was, and every state log is an event") {
    const auto made = vehicles("id,make,model,state\n2,AUDI,\"A4, \"\"S\"\"\",selling\n",
                               "timestamp,vehicleId,state,more\n2022-09-11 17:03:17+00,2,selling,x\n"
                               "2022-09-10 16:59:01.5+02,2,quoted,y\n");
    CHECK(made.errors.empty());
    CHECK(made.report.complete);
    CHECK(made.report.rows == 3);
    REQUIRE(made.lines.size() == 3);
    CHECK(
        after_id(made.lines[0]) ==
        R"("source":"/convert/vehicles","type":"tidemark.vehicle.registered.v1","time":"2022-09-10T14:59:01.500Z","data":{"id":2,"make":"AUDI","model":"A4, \"S\""}})");
    CHECK(
        after_id(made.lines[1]) ==
        R"("source":"/convert/vehicles","type":"tidemark.vehicle.state_changed.v1","time":"2022-09-11T17:03:17Z","data":{"id":2,"state":"selling"}})");
    CHECK(made.lines[2].find(R"("time":"2022-09-10T14:59:01.500Z","data":{"id":2,"state":"quoted"})") !=
          std::string::npos);
}

TEST_CASE("ids are UUIDs, the same each time, and others for equal rows") {
    const std::string rows = "key,value\na,1\na,1\nb,1\n";
    const auto made = counters(rows);
    CHECK(made.lines == counters(rows).lines);
    REQUIRE(made.lines.size() == 3);
    std::set<std::string> ids;
    for (const auto& line : made.lines) {
        const auto id = id_of(line);
        REQUIRE(id.size() == 36);
        CHECK(id[8] == '-');
        CHECK(id[14] == '8');
        CHECK(std::string("89ab").find(id[19]) != std::string::npos);
        ids.insert(id);
    }
    CHECK(ids.size() == 3);
}

TEST_CASE("a vehicle without state logs needs a time, which its own state then has, too") {
    const std::string rows = "id,make,model,state\n1,BMW,X1,quoted\n3,VW,GOLF,\n";
    const std::string none = "vehicleId,state,timestamp\n";
    const auto refused = vehicles(rows, none);
    CHECK(refused.report.refused == 2);
    CHECK(refused.lines.empty());
    CHECK(refused.errors.find("v.csv line 2: has no state log, and no --time was given\n") != std::string::npos);
    const auto made = vehicles(rows, none, "2022-09-01T00:00:00Z");
    CHECK(made.errors.empty());
    REQUIRE(made.lines.size() == 3);
    CHECK(made.lines[1].find(R"("time":"2022-09-01T00:00:00Z","data":{"id":1,"state":"quoted"})") != std::string::npos);
    CHECK(made.lines[2].find(R"({"id":3,"make":"VW","model":"GOLF"})") != std::string::npos);
}

TEST_CASE("a vehicle's state is what its logs end with, or it is named") {
    const std::string logs =
        "vehicleId,state,timestamp\n1,sold,2022-09-12 00:00:00+00\n1,quoted,2022-09-10 00:00:00+00\n"
        "2,quoted,2022-09-10 00:00:00+00\n2,selling,2022-09-10 00:00:00+00\n";
    // Of a tie the last one is what the tables will say.
    const auto tied = vehicles("id,make,model,state\n2,a,b,quoted\n", logs);
    CHECK(tied.errors.find("v.csv line 2: /state: is quoted, but its newest state log, of 2022-09-10T00:00:00Z, says "
                           "selling\n") != std::string::npos);
    const auto made = vehicles("id,make,model,state\n1,a,b,quoted\n2,a,b,selling\n", logs);
    CHECK(made.report.refused == 1);
    CHECK(made.errors.find("v.csv line 2: /state: is quoted, but its newest state log, of 2022-09-12T00:00:00Z, says "
                           "sold\n") != std::string::npos);
    CHECK(made.lines.size() == 5);
}

TEST_CASE("a row that cannot be an event is named with its line and all that is wrong, the others are written") {
    const auto cars = vehicles(
        "id,make,model,state\n0,,\xFF,broken\n\"1\n\",a,b,sold\n1,a,b,quoted\n1,a,b,quoted\n2,a\n3,a\"b,c,sold\n",
        "vehicleId,state,timestamp\n1,quoted,2022-09-10 00:00:00+00\nx,lost,2022-09-10 00:00:00\n1,,\n"
        "4,sold,2999-01-01 00:00:00+00\n");
    CAPTURE(cars.errors);
    const auto says = [&](const std::string& line) { return cars.errors.find(line) != std::string::npos; };
    CHECK(cars.report.rows == 10);
    CHECK(cars.report.refused == 8);
    CHECK(cars.lines.size() == 2);
    for (const auto* const column : {"/id", "/make", "/model: is not UTF-8", "/state"}) {
        CAPTURE(column);
        CHECK(cars.errors.substr(0, cars.errors.find('\n')).find(column) != std::string::npos);
    }
    CHECK(says("v.csv line 2: "));
    CHECK(says("v.csv line 3: /id"));
    CHECK(says("v.csv line 6: /id: has come in an earlier row\n"));
    CHECK(says("v.csv line 7: has 2 fields, the first line names 4\n"));
    CHECK(says("v.csv line 8: a quote stands within a field that is not in quotes\n"));
    CHECK(says("s.csv line 3: /timestamp: is no instant with an offset, as 2022-09-10 10:23:54+00 is; /vehicleId"));
    CHECK(says("s.csv line 4: /timestamp"));
    CHECK(says("s.csv line 5: /timestamp: is more than one hour ahead\n"));

    const auto made = counters("value,key\n1,a\n1.0,a\n01,a\n-9007199254740991,b\n9007199254740992,b\n,\nx," +
                               std::string(257, 'k') + "\n1,\"\"\n");
    CAPTURE(made.errors);
    CHECK(made.report.events == 2);
    CHECK(made.report.refused == 6);
    CHECK(made.lines[1].ends_with(R"("data":{"key":"b","value":-9007199254740991}})"));
    CHECK(made.errors.find("line 8: /key") != std::string::npos);
}

TEST_CASE("what is no such table stops a conversion") {
    CHECK_THROWS_AS(counters(""), std::runtime_error);
    CHECK_THROWS_AS(counters("key,count\na,1\n"), std::runtime_error);
    CHECK_THROWS_AS(vehicles("id,make,model\n", "vehicleId,state,timestamp\n"), std::runtime_error);
    ConvertOptions options;
    options.counters = "/nowhere/c.csv";
    CHECK_THROWS_AS(run(convert_counters, options), std::runtime_error);
    options.counters = "/";
    CHECK_THROWS_AS(run(convert_counters, options), std::runtime_error);
}

TEST_CASE("a conversion that is told to stop is not complete") {
    Folder folder;
    ConvertOptions options;
    options.counters = folder.write("c.csv", "key,value\na,1\nb,1\n");
    options.time = schemas::Timestamp(0s);
    int asked = 0;
    options.cancelled = [&] { return ++asked > 1; };
    const auto made = run(convert_counters, options);
    CHECK_FALSE(made.report.complete);
    CHECK(made.lines.size() == 1);
}
