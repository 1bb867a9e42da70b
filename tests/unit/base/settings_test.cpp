#include "infra/base/settings.h"

#include "infra/base/exit_code.h"
#include "infra/base/version.h"
#include "tests/support/process.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using tidemark::base::Settings;
using tidemark::test::CapturedStream;
using tidemark::test::ScopedEnvironment;
using tidemark::test::TemporaryFolder;

namespace {

/// A program with an option of every kind, and what came of running it.
struct Program {
    std::string brokers = "127.0.0.1:9092";
    std::string postgres = "postgresql://app:default-secret@h/db";
    std::int64_t partitions = 4;
    std::chrono::milliseconds interval = 1s;
    std::int64_t max_body = 16 * 1024;
    bool metrics = true;
    std::string level = "info";
    std::int64_t max_diff = 0;
    bool accept_diff = false;
    std::string stream;
    std::string note;
    std::string ran;
    std::string out;
    std::string err;
    int code = -1;

    Program& run(const std::vector<std::string>& words, const std::map<std::string, std::string>& environment = {},
                 const std::function<void(Settings&)>& more = {}) {
        Settings settings("tidemark-test", "A program for tests.");
        settings.text("brokers", brokers, "Where Kafka is.");
        settings.secret("postgres", postgres, "Connection string of the database.");
        settings.number("partitions", partitions, 1, 64, "Partitions of each topic.");
        settings.duration("flush-interval", interval, 50ms, 1min, "How often to flush.");
        settings.bytes("max-body", max_body, 1, 1 << 20, "Largest body.");
        settings.flag("metrics", metrics, "Serve metrics.");
        settings.choice("log-level", level, {"debug", "info", "warn"}, "Lowest level that is written.");
        settings.command("run", "Folds.", [this] {
            ran = "run";
            return 0;
        });
        settings.command(
            "promote", "Makes the candidate live.",
            [this] {
                ran = "promote";
                return static_cast<int>(tidemark::base::kRefused);
            },
            [this](Settings& own) {
                own.argument("STREAM", stream, true, "A stream's name.");
                own.argument("NOTE", note, false, "Why.");
                own.number("max-diff", max_diff, 0, 1'000, "Rows that may differ.");
                own.flag("accept-diff", accept_diff, "Promote all the same.");
                own.check([this] {
                    std::vector<std::string> violations;
                    if (accept_diff && max_diff > 0) violations.emplace_back("--accept-diff and --max-diff: give one");
                    return violations;
                });
            });
        if (more) more(settings);
        const ScopedEnvironment scope(environment);
        std::vector<const char*> argv = {"tidemark-test"};
        for (const auto& word : words)
            argv.push_back(word.c_str());
        const CapturedStream standard_output(stdout);
        const CapturedStream standard_error(stderr);
        code = settings.run(static_cast<int>(argv.size()), argv.data());
        out = standard_output.text();
        err = standard_error.text();
        return *this;
    }

    [[nodiscard]] bool complained(const std::string& text) const { return err.find(text) != std::string::npos; }
    [[nodiscard]] bool printed(const std::string& text) const { return out.find(text) != std::string::npos; }
};

constexpr int kWrongUse = tidemark::base::kWrongUse;

}  // namespace

TEST_CASE("without words the first command runs with the defaults, and its return is the exit code") {
    Program program;
    CHECK(program.run({}).code == 0);
    CHECK(program.ran == "run");
    CHECK(program.partitions == 4);
    CHECK(program.err.empty());
    CHECK(program.out.empty());
    CHECK(Program().run({"promote", "counters"}).code == 3);
}

TEST_CASE("a flag wins over the environment, that over the file, that over the default") {
    TemporaryFolder folder;
    const auto file = folder.file("t.toml", "partitions = 7\nflush-interval = \"3s\"\nbrokers = \"from-file:1\"\n");
    Program program;
    program.run({"--config", file, "--brokers", "from-flag:1"},
                {{"TIDEMARK_BROKERS", "from-environment:1"}, {"TIDEMARK_FLUSH_INTERVAL", "2s"}});
    CHECK(program.code == 0);
    CHECK(program.brokers == "from-flag:1");
    CHECK(program.interval == 2s);
    CHECK(program.partitions == 7);
    CHECK(program.max_body == 16 * 1024);
}

TEST_CASE("the settings file may be named by the environment: the flag names another") {
    TemporaryFolder folder;
    const auto one = folder.file("one.toml", "partitions = 1\n");
    const auto two = folder.file("two.toml", "partitions = 2\n");
    CHECK(Program().run({}, {{"TIDEMARK_CONFIG", one}}).partitions == 1);
    CHECK(Program().run({"--config=" + two}, {{"TIDEMARK_CONFIG", one}}).partitions == 2);
}

TEST_CASE("options of all commands stand before or after the command's name") {
    for (const auto& words : std::vector<std::vector<std::string>>{{"--partitions", "9", "promote", "counters"},
                                                                   {"promote", "--partitions", "9", "counters"},
                                                                   {"promote", "counters", "--partitions=9"},
                                                                   {"promote", "--partitions=9", "--", "counters"}}) {
        Program program;
        program.run(words);
        CHECK(program.ran == "promote");
        CHECK(program.stream == "counters");
        CHECK(program.partitions == 9);
    }
}

TEST_CASE(
    "a command takes its arguments in order, the last given flag counts, and a command's name may be an argument") {
    Program program;
    program.run({"promote", "run", "--max-diff", "3", "because", "--max-diff", "5"});
    CHECK(program.ran == "promote");
    CHECK(program.stream == "run");
    CHECK(program.note == "because");
    CHECK(program.max_diff == 5);
}

TEST_CASE("durations and sizes carry units") {
    for (const auto& [text, expected] : std::map<std::string, std::chrono::milliseconds>{
             {"250ms", 250ms}, {"1s", 1s}, {"5", 5s}, {"1m", 1min}, {"60s", 1min}}) {
        CHECK(Program().run({"--flush-interval", text}).interval == expected);
    }
    for (const auto& [text, expected] :
         std::map<std::string, std::int64_t>{{"512", 512}, {"64KiB", 65'536}, {"1MiB", 1'048'576}}) {
        CHECK(Program().run({"--max-body", text}).max_body == expected);
    }
    Program none;
    std::chrono::milliseconds pause{0};
    none.run({"--help"}, {},
             [&](Settings& settings) { settings.duration("pause", pause, 0ms, 1s, "How long to rest."); });
    CHECK(none.printed("How long to rest. From 0 to 1s. (default \"0\"; TIDEMARK_PAUSE)\n"));
}

TEST_CASE("an impossible value is refused, whatever brought it, and the target keeps its default") {
    const auto refused = [](const std::string& option, const std::string& value) {
        CAPTURE(option);
        CAPTURE(value);
        Program program;
        CHECK(program.run({"--" + option + "=" + value}).code == kWrongUse);
        CHECK(program.complained("--" + option + ": "));
        CHECK(program.ran.empty());
        CHECK(program.partitions == 4);
        CHECK(program.interval == 1s);
        CHECK(program.max_body == 16 * 1024);
        CHECK(program.level == "info");
        CHECK(program.metrics);
    };
    for (const char* value : {"", "0", "65", "x", "1.5", "1e3", " 1", "1 ", "0x10", "99999999999999999999", "-1"}) {
        refused("partitions", value);
    }
    for (const char* value : {"", "s", "1 s", "1sec", "49ms", "61s", "-1s", "1.5s", "9223372036854775807h", "1S"}) {
        refused("flush-interval", value);
    }
    for (const char* value : {"", "0", "2MiB", "1KB", "1kib", "KiB", "9223372036854775807GiB"}) {
        refused("max-body", value);
    }
    for (const char* value : {"", "inf", "INFO"})
        refused("log-level", value);
    for (const char* value : {"", "yes", "1", "TRUE"})
        refused("metrics", value);
}

TEST_CASE("all that is wrong is said at once, each with what to try") {
    TemporaryFolder folder;
    const auto file = folder.file("t.toml", "partitons = 3\nmax-body = \"1KB\"\n[section]\n");
    Program program;
    program.run({"--config", file, "--flush-intervall=1s", "--log-level", "wran", "--partitions", "100", "promot"},
                {{"TIDEMARK_FLUSH_INTERVAL", "soon"}, {"TIDEMARK_BROKER", "x"}});
    CHECK(program.code == kWrongUse);
    CHECK(program.ran.empty());
    CHECK(program.out.empty());
    CHECK(program.complained("tidemark-test: 9 settings are wrong\n"));
    CHECK(program.complained("  --flush-intervall: unknown flag; did you mean --flush-interval?\n"));
    CHECK(program.complained("  \"promot\": unknown command; did you mean promote?\n"));
    CHECK(program.complained("  TIDEMARK_BROKER: unknown variable; did you mean TIDEMARK_BROKERS?\n"));
    CHECK(program.complained("  " + file + ": line 3: sections and tables are not used here; write the keys flat\n"));
    CHECK(program.complained("  " + file + " line 1: unknown key \"partitons\"; did you mean partitions?\n"));
    CHECK(program.complained("  --log-level: \"wran\" is unknown; did you mean warn?\n"));
    CHECK(program.complained("  --partitions: \"100\" is out of range; give 1 to 64\n"));
    CHECK(program.complained(
        "  TIDEMARK_FLUSH_INTERVAL: \"soon\" is not a duration; write for instance 250ms, 1s, 10m or 24h\n"));
    CHECK(program.complained("  " + file +
                             " line 2, max-body: \"1KB\" is not a size; write for instance 512, 64KiB or 16MiB\n"));
    CHECK(program.complained("Try tidemark-test --help"));
}

TEST_CASE("an option of another command is refused as a flag, and known elsewhere") {
    TemporaryFolder folder;
    const auto file = folder.file("t.toml", "max-diff = 7\n");
    Program program;
    CHECK(program.run({"run", "--max-diff", "1"}).code == kWrongUse);
    CHECK(program.complained("--max-diff: belongs to promote, not to run; leave it out"));
    CHECK(Program().run({"run", "--config", file}, {{"TIDEMARK_MAX_DIFF", "5"}}).code == 0);
    CHECK(Program().run({"promote", "counters", "--config", file}).max_diff == 7);
    CHECK(Program().run({"promote", "counters"}, {{"TIDEMARK_MAX_DIFF", "5"}}).max_diff == 5);
}

TEST_CASE("a flag without its value does not take the next flag or word for it") {
    Program program;
    CHECK(program.run({"--brokers", "--partitions", "5"}).code == kWrongUse);
    CHECK(program.complained("--brokers: needs a value; write --brokers=VALUE"));
    CHECK(program.partitions == 5);
    CHECK(Program().run({"--partitions"}).code == kWrongUse);
    Program empty;
    CHECK(empty.run({"--brokers=", "promote", "counters"}).code == 3);
    CHECK(empty.brokers.empty());
    CHECK(empty.ran == "promote");
    CHECK(Program().run({"--brokers=--odd"}).brokers == "--odd");
    CHECK(Program().run({"--brokers", "-5"}).brokers == "-5");
    CHECK(Program().run({"--metrics="}).code == kWrongUse);
}

TEST_CASE("a switch is set by its name, by true or by false, in each source") {
    const auto off = std::map<std::string, std::string>{{"TIDEMARK_METRICS", "false"}};
    CHECK_FALSE(Program().run({"--metrics=false"}).metrics);
    CHECK_FALSE(Program().run({}, off).metrics);
    CHECK(Program().run({"--metrics"}, off).metrics);
    CHECK(Program().run({"promote", "counters", "--accept-diff"}).accept_diff);
    TemporaryFolder folder;
    CHECK_FALSE(Program().run({"--config", folder.file("t.toml", "metrics = false\n")}).metrics);
}

TEST_CASE("arguments that are missing or too many are refused") {
    Program missing;
    CHECK(missing.run({"promote"}).code == kWrongUse);
    CHECK(missing.complained("STREAM: is missing; write tidemark-test promote STREAM"));
    Program many;
    CHECK(many.run({"promote", "counters", "note", "more"}).code == kWrongUse);
    CHECK(many.complained("\"more\": is one argument too many for promote; leave it out"));
    Program unknown;
    CHECK(unknown.run({"serve"}).code == kWrongUse);
    CHECK(unknown.complained("\"serve\": unknown command; --help lists them"));
    CHECK(Program().run({"-x"}).code == kWrongUse);
}

TEST_CASE("an unknown flag's value is not repeated: the flag may be a misspelt password") {
    Program program;
    CHECK(program.run({"--postgress", "hunter2"}).code == kWrongUse);
    CHECK(program.complained("--postgress: unknown flag; did you mean --postgres?"));
    CHECK_FALSE(program.complained("hunter2"));
    CHECK(program.complained("1 setting is wrong"));
    Program joined;
    CHECK(joined.run({"--postgress=hunter2"}).code == kWrongUse);
    CHECK_FALSE(joined.complained("hunter2"));
}

TEST_CASE("variables of the tests and of any Tidemark program are let through, all others refused") {
    CHECK(
        Program()
            .run({}, {{"TIDEMARK_TEST_DSN", "x"}, {"TIDEMARK_FAILPOINT", "C1=kill"}, {"TIDEMARK_FAILPOINT_FILE", "f"}})
            .code == 0);
    CHECK(Program().run({}, {{"TIDEMARK_LISTEN", "x"}, {"TIDEMARK_OWNER_DSN_FILE", "x"}}).code == 0);
    CHECK(Program().run({}, {{"TIDEMARK_LISTEN2", "x"}}).code == kWrongUse);
    CHECK(Program().run({}, {{"TIDEMARK_LISTE", "x"}}).code == kWrongUse);
    CHECK(Program().run({}, {{"TIDEMARK_ISTEN", "x"}}).code == kWrongUse);
    CHECK(Program().run({}, {{"TIDEMARK_CHECK_CONFIG", "1"}}).code == kWrongUse);
    CHECK(Program().run({}, {{"TIDEMARK", "x"}, {"TIDEMARKS_X", "x"}}).code == 0);
}

TEST_CASE("a secret comes from a flag, the environment, the settings file, or a file that one of them names") {
    TemporaryFolder folder;
    const auto secret = folder.file("secret", "s3cret \n");
    CHECK(Program().run({"--postgres=a#b"}).postgres == "a#b");
    CHECK(Program().run({"--postgres-file", secret}).postgres == "s3cret ");
    CHECK(Program().run({}, {{"TIDEMARK_POSTGRES", "e"}}).postgres == "e");
    CHECK(Program().run({}, {{"TIDEMARK_POSTGRES_FILE", secret}}).postgres == "s3cret ");
    CHECK(Program().run({"--config", folder.file("a.toml", "postgres = \"p#w\"\n")}).postgres == "p#w");
    CHECK(Program().run({"--config", folder.file("b.toml", "postgres-file = '" + secret + "'\n")}).postgres ==
          "s3cret ");
    // A stronger source wins in either form.
    CHECK(Program().run({"--postgres-file", secret}, {{"TIDEMARK_POSTGRES", "e"}}).postgres == "s3cret ");
    CHECK(Program().run({"--postgres=f"}, {{"TIDEMARK_POSTGRES_FILE", secret}}).postgres == "f");
    CHECK(Program().run({"--postgres-file", folder.file("crlf", "two\nlines\r\n")}).postgres == "two\nlines");
    CHECK(Program().run({"--postgres-file", folder.file("empty", "")}).postgres.empty());
}

TEST_CASE("a secret file that everyone may read, or that is no file, stops the start") {
    TemporaryFolder folder;
    const auto open_to_all = folder.file("open", "hunter2\n", 0644);
    Program program;
    CHECK(program.run({}, {{"TIDEMARK_POSTGRES_FILE", open_to_all}}).code == kWrongUse);
    CHECK(program.complained("TIDEMARK_POSTGRES_FILE: " + open_to_all + " can be read by everyone; chmod o-rwx " +
                             open_to_all));
    CHECK_FALSE(program.complained("hunter2"));
    CHECK(Program().run({"--postgres-file", folder.file("group", "x", 0640)}).code == 0);
    CHECK(Program().run({"--postgres-file", folder.file("absent")}).code == kWrongUse);
    CHECK(Program().run({"--postgres-file", "/tmp"}).code == kWrongUse);
    CHECK(Program().run({"--postgres-file", folder.file("nul", std::string("a\0b", 3))}).code == kWrongUse);
    CHECK(Program().run({"--postgres-file", folder.file("large", std::string(70'000, 'x'))}).code == kWrongUse);
    Program both;
    CHECK(both.run({"--postgres=a", "--postgres-file", open_to_all}).code == kWrongUse);
    CHECK(both.complained("--postgres: is given twice; drop it, or --postgres-file"));
}

TEST_CASE("a settings file that is missing or unreadable stops the start") {
    Program program;
    CHECK(program.run({"--config", "/nowhere/t.toml"}).code == kWrongUse);
    CHECK(program.complained("--config: cannot open /nowhere/t.toml: No such file or directory"));
    CHECK(Program().run({"--config", "/tmp"}).code == kWrongUse);
    Program failing;
    CHECK(failing.run({"--config", "/proc/self/mem"}).code == kWrongUse);
    CHECK(failing.complained("--config: cannot read /proc/self/mem: Input/output error"));
    TemporaryFolder folder;
    CHECK(Program().run({"--config", folder.file("t.toml", "config = \"other\"\n")}).code == kWrongUse);
}

TEST_CASE("a rule over several options is checked for its own command, with the other violations") {
    Program program;
    CHECK(program.run({"promote", "counters", "--accept-diff", "--max-diff=3", "--partitions=0"}).code == kWrongUse);
    CHECK(program.complained("  --accept-diff and --max-diff: give one\n"));
    CHECK(program.complained("2 settings are wrong"));
    CHECK(Program().run({"run"}, {{"TIDEMARK_ACCEPT_DIFF", "true"}, {"TIDEMARK_MAX_DIFF", "3"}}).code == 0);
}

TEST_CASE("an option is given by any source, and with the default's value, too") {
    const auto is_given = [](const std::vector<std::string>& words,
                             const std::map<std::string, std::string>& environment = {}) {
        bool given = false;
        Program program;
        program.run(words, environment, [&](Settings& settings) {
            settings.command("look", "Looks.", [&] {
                given = settings.is_given("brokers");
                return 0;
            });
        });
        CHECK(program.code == 0);
        return given;
    };
    TemporaryFolder folder;
    CHECK_FALSE(is_given({"look"}));
    CHECK_FALSE(is_given({"look", "--partitions=4"}));
    CHECK(is_given({"look", "--brokers=127.0.0.1:9092"}));
    CHECK(is_given({"look"}, {{"TIDEMARK_BROKERS", "127.0.0.1:9092"}}));
    CHECK(is_given({"look", "--config", folder.file("t.toml", "brokers = \"127.0.0.1:9092\"\n")}));
}

TEST_CASE("--check-config prints what is in force and from where, and nothing secret, and does not run") {
    TemporaryFolder folder;
    const auto file = folder.file("t.toml", "max-body = 2048\n");
    const auto secret = folder.file("secret", "postgresql://app:hunter2@h/db\n");
    Program program;
    program.run({"--check-config", "--brokers", "a\"b:1", "--config", file},
                {{"TIDEMARK_FLUSH_INTERVAL", "120000ms"}, {"TIDEMARK_POSTGRES_FILE", secret}});
    CHECK(program.code == kWrongUse);  // 2 minutes are too long
    CHECK(program.out.empty());
    program.run({"--check-config", "--brokers", "a\"b:1", "--config", file},
                {{"TIDEMARK_FLUSH_INTERVAL", "60000ms"}, {"TIDEMARK_POSTGRES_FILE", secret}});
    CHECK(program.code == 0);
    CHECK(program.ran.empty());
    CHECK(program.out ==
          "# tidemark-test run: the settings in force\n"
          "brokers = \"a\\\"b:1\"  # flag: --brokers\n"
          "postgres = \"***\"  # environment: TIDEMARK_POSTGRES_FILE, not shown\n"
          "partitions = 4  # default\n"
          "flush-interval = \"1m\"  # environment: TIDEMARK_FLUSH_INTERVAL\n"
          "max-body = \"2KiB\"  # file: " +
              file +
              " line 1, max-body\n"
              "metrics = true  # default\n"
              "log-level = \"info\"  # default\n");
    CHECK(Program().run({"--check-config"}).printed("postgres = \"***\""));
    CHECK(Program().run({"--check-config", "--postgres="}).printed("postgres = \"\"  # flag: --postgres\n"));
    CHECK(Program().run({"promote", "counters", "--check-config"}).printed("max-diff = 0  # default\n"));
}

TEST_CASE("what --check-config prints is a settings file again") {
    TemporaryFolder folder;
    const auto printed = Program().run({"--check-config", "--flush-interval=90ms", "--brokers", "a\tb\x7f"}).out;
    Program again;
    CHECK(again.run({"--config", folder.file("t.toml", printed)}).code == 0);
    CHECK(again.interval == 90ms);
    CHECK(again.brokers == "a\tb\x7f");
}

TEST_CASE("--help lists the commands and each option with its default and variable") {
    Program program;
    CHECK(program.run({"--help", "--nonsense"}, {{"TIDEMARK_NONSENSE", "x"}}).code == 0);
    CHECK(program.ran.empty());
    for (const char* text : {"tidemark-test: A program for tests.\n", "  run (the default)\n        Folds.\n",
                             "  promote\n        Makes the candidate live.\n",
                             "  --flush-interval DURATION\n        How often to flush. From 50ms to 1m. "
                             "(default \"1s\"; TIDEMARK_FLUSH_INTERVAL)\n",
                             "  --log-level debug|info|warn\n", "  --postgres TEXT, --postgres-file FILE\n",
                             "TIDEMARK_POSTGRES, TIDEMARK_POSTGRES_FILE", "  --metrics\n", "TIDEMARK_CONFIG"}) {
        CAPTURE(text);
        CHECK(program.printed(text));
    }
    CHECK_FALSE(program.printed("default-secret"));
    CHECK_FALSE(program.printed("--max-diff"));
    Program promote;
    CHECK(promote.run({"promote", "-h"}).code == 0);
    for (const char* text : {"Usage: tidemark-test promote STREAM [NOTE] [options]\n", "  --max-diff NUMBER\n",
                             "  STREAM\n", "  --brokers TEXT\n"}) {
        CAPTURE(text);
        CHECK(promote.printed(text));
    }
}

TEST_CASE("a command's examples stand in its help, ready to be copied") {
    Program program;
    std::string file;
    const auto more = [&](Settings& settings) {
        settings.command(
            "import", "Takes a file.", [] { return 0; },
            [&](Settings& command) {
                command.argument("FILE", file, true, "The file.");
                command.example("events.ndjson", "Take this one.");
            });
    };
    program.run({"import", "--help"}, {}, more);
    CHECK(program.out.find("\nExamples\n  tidemark-test import events.ndjson\n        Take this one.\n") !=
          std::string::npos);
    program.run({"run", "--help"}, {}, more);
    CHECK(program.out.find("Examples") == std::string::npos);
}

TEST_CASE("--version names program, version and commit") {
    Program program;
    CHECK(program.run({"--version"}).code == 0);
    CHECK(program.ran.empty());
    CHECK(program.out.rfind("tidemark-test " + std::string(tidemark::base::version()) + " (", 0) == 0);
}

TEST_CASE("--print-settings-example is a settings file with everything commented out, and without a secret") {
    Program program;
    CHECK(program.run({"--print-settings-example"}).code == 0);
    CHECK(
        program.out ==
        R"(# Settings of tidemark-test, each with its default. Copy the file, uncomment what you change, start with --config FILE.
# A flag (--some-name) wins over the environment (TIDEMARK_SOME_NAME), and that over this file.

# Where Kafka is.
# brokers = "127.0.0.1:9092"

# Connection string of the database.
# postgres = ""
# postgres-file = ""

# Partitions of each topic. From 1 to 64.
# partitions = 4

# How often to flush. From 50ms to 1m.
# flush-interval = "1s"

# Largest body. From 1 to 1MiB.
# max-body = "16KiB"

# Serve metrics.
# metrics = true

# Lowest level that is written. One of debug, info, warn.
# log-level = "info"

# ---- only for tidemark-test promote

# Rows that may differ. From 0 to 1000.
# max-diff = 0

# Promote all the same.
# accept-diff = false
)");
}

TEST_CASE("two commands may have an option of one name: two meanings of one option are a bug") {
    bool json_of_a = false;
    bool json_of_b = false;
    const auto run = [&](const char* command) {
        Settings settings("t", "t");
        settings.command(
            "a", "A.", [] { return 0; }, [&](Settings& own) { own.flag("json", json_of_a, "JSON."); });
        settings.command(
            "b", "B.", [] { return 0; }, [&](Settings& own) { own.flag("json", json_of_b, "JSON."); });
        const char* argv[] = {"t", command, "--json"};
        return settings.run(3, argv);
    };
    CHECK(run("b") == 0);
    CHECK_FALSE(json_of_a);
    CHECK(json_of_b);

    Settings settings("t", "t");
    std::string text;
    bool flag = false;
    settings.text("name", text, "x");
    CHECK_THROWS_AS(settings.text("name", text, "x"), std::logic_error);
    CHECK_THROWS_AS(settings.flag("version", flag, "x"), std::logic_error);
    CHECK_THROWS_AS(settings.argument("A", text, true, "x"), std::logic_error);
    CHECK_THROWS_AS(settings.command(
                        "c", "C.", [] { return 0; }, [&](Settings& own) { own.text("name", text, "x"); }),
                    std::logic_error);
}
