#include "infra/base/failpoint.h"

#ifdef TIDEMARK_FAILPOINTS

#include "infra/base/log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>

namespace tidemark::base {

namespace {

enum class Act : std::uint8_t { kill, stop, term, fail, sleep };

struct Rule {
    Act act = Act::kill;
    std::chrono::milliseconds sleep{0};
    std::uint64_t fires_at = 1;
    std::uint64_t passed = 0;
};

using Plan = std::map<std::string, Rule, std::less<>>;

/// A test whose plan cannot be read would pass without its fault: end instead.
[[noreturn]] void refuse(std::string_view reason, std::string_view text) {
    log::error("failpoint_plan_refused", {{"reason", reason}, {"text", text}});
    std::abort();
}

std::uint64_t parse_number(std::string_view text, std::string_view entry) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size()) refuse("not a number", entry);
    return number;
}

Rule parse_rule(std::string_view text, std::string_view entry) {
    Rule rule;
    if (const auto at = text.find('@'); at != std::string_view::npos) {
        rule.fires_at = parse_number(text.substr(at + 1), entry);
        if (rule.fires_at == 0) refuse("passes count from 1", entry);
        text = text.substr(0, at);
    }
    constexpr std::string_view kSleep = "sleep:";
    if (text == "kill") {
        rule.act = Act::kill;
    } else if (text == "stop") {
        rule.act = Act::stop;
    } else if (text == "term") {
        rule.act = Act::term;
    } else if (text == "throw") {
        rule.act = Act::fail;
    } else if (text.substr(0, kSleep.size()) == kSleep) {
        rule.act = Act::sleep;
        rule.sleep = std::chrono::milliseconds{parse_number(text.substr(kSleep.size()), entry)};
    } else {
        refuse("unknown action; one of kill, stop, term, throw, sleep:<ms>", entry);
    }
    return rule;
}

Plan parse_plan(std::string_view text) {
    Plan plan;
    while (!text.empty()) {
        const auto length = text.find_first_of(";\n");
        const auto entry = text.substr(0, length);
        text = length == std::string_view::npos ? std::string_view{} : text.substr(length + 1);
        if (entry.empty()) continue;
        const auto equals = entry.find('=');
        if (equals == std::string_view::npos || equals == 0) refuse("expected <name>=<action>", entry);
        plan.insert_or_assign(std::string(entry.substr(0, equals)), parse_rule(entry.substr(equals + 1), entry));
    }
    return plan;
}

/// The process's plan. Without one a pass costs one load of a constant.
class Plans {
public:
    Plans() {
        if (const char* file = std::getenv("TIDEMARK_FAILPOINT_FILE")) {
            file_ = file;
            active_ = true;
        } else if (const char* text = std::getenv("TIDEMARK_FAILPOINT")) {
            plan_ = parse_plan(text);
            active_ = !plan_.empty();
        }
    }

    [[nodiscard]] bool active() const noexcept { return active_; }

    /// The rule that fires on this pass. The firing is on disk when this returns.
    std::optional<Rule> pass(std::string_view name) {
        const std::lock_guard lock(mutex_);
        if (!file_.empty()) reload();
        const auto found = plan_.find(name);
        if (found == plan_.end() || ++found->second.passed != found->second.fires_at) return std::nullopt;
        if (!file_.empty()) record(name);
        return found->second;
    }

private:
    using FileIdentity = std::tuple<ino_t, off_t, std::int64_t, std::int64_t>;

    void reload() {
        struct stat status = {};
        if (stat(file_.c_str(), &status) != 0) {
            plan_.clear();
            read_.reset();
            return;
        }
        // Inode and size too: two changes within one tick of the file system's clock bear one time.
        const FileIdentity identity{status.st_ino, status.st_size, status.st_mtim.tv_sec, status.st_mtim.tv_nsec};
        if (read_ == identity) return;
        std::ostringstream text;
        text << std::ifstream(file_).rdbuf();
        plan_ = parse_plan(text.str());
        read_ = identity;
    }

    void record(std::string_view name) {
        const std::string line = std::string(name) + "\n";
        const std::string path = file_ + ".fired";
        const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (fd < 0 || write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size()) || close(fd) != 0) {
            refuse("cannot write the record of firings", path);
        }
    }

    std::string file_;
    bool active_ = false;
    std::mutex mutex_;  // guards everything below
    Plan plan_;
    std::optional<FileIdentity> read_;
};

}  // namespace

void failpoint(const char* name) {
    static Plans plans;
    if (!plans.active()) return;
    const auto rule = plans.pass(name);
    if (!rule) return;
    switch (rule->act) {
        case Act::kill:
            kill(getpid(), SIGKILL);
            break;
        case Act::stop:
            kill(getpid(), SIGSTOP);
            break;
        case Act::term:
            kill(getpid(), SIGTERM);
            break;
        case Act::fail:
            throw std::runtime_error(std::string("failpoint ") + name);
        case Act::sleep:
            std::this_thread::sleep_for(rule->sleep);
            break;
    }
}

}  // namespace tidemark::base

#endif
