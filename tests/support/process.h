#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <utility>

namespace tidemark::test {

/// Sends one of this process's standard streams into a file until it is destroyed.
class CapturedStream {
public:
    explicit CapturedStream(std::FILE* stream) : stream_(stream), file_(std::tmpfile()) {
        if (file_ == nullptr) throw std::system_error(errno, std::generic_category(), "tmpfile");
        std::fflush(stream_);
        saved_ = dup(fileno(stream_));
        if (saved_ < 0 || dup2(fileno(file_), fileno(stream_)) < 0) {
            throw std::system_error(errno, std::generic_category(), "dup");
        }
    }
    ~CapturedStream() {
        std::fflush(stream_);
        dup2(saved_, fileno(stream_));
        close(saved_);
        std::fclose(file_);
    }
    CapturedStream(const CapturedStream&) = delete;
    CapturedStream& operator=(const CapturedStream&) = delete;

    [[nodiscard]] std::string text() const {
        std::fflush(stream_);
        std::string content;
        char chunk[4096];
        ssize_t got = 0;
        for (off_t at = 0; (got = pread(fileno(file_), chunk, sizeof chunk, at)) > 0; at += got) {
            content.append(chunk, static_cast<std::size_t>(got));
        }
        return content;
    }

private:
    std::FILE* stream_;
    std::FILE* file_;
    int saved_ = -1;
};

/// Environment variables that are there until it is destroyed.
class ScopedEnvironment {
public:
    explicit ScopedEnvironment(std::map<std::string, std::string> variables) : variables_(std::move(variables)) {
        for (const auto& [name, value] : variables_)
            setenv(name.c_str(), value.c_str(), 1);
    }
    ~ScopedEnvironment() {
        for (const auto& [name, value] : variables_)
            unsetenv(name.c_str());
    }
    ScopedEnvironment(const ScopedEnvironment&) = delete;
    ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

private:
    std::map<std::string, std::string> variables_;
};

/// A forked copy of this process that runs `body` and ends with what it returns; 99 when it throws. Killed and reaped
/// when destroyed. Only from a process with a single thread.
class Child {
public:
    explicit Child(const std::function<int()>& body) : pid_((std::fflush(nullptr), fork())) {
        if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
        if (pid_ > 0) return;
        // The test framework's handlers would report a signal meant for the child as a crash of the test.
        for (const int signal : {SIGTERM, SIGINT, SIGABRT})
            std::signal(signal, SIG_DFL);
        int code = 99;
        try {
            code = body();
        } catch (...) {
        }
        std::fflush(nullptr);
        _exit(code);
    }
    ~Child() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    [[nodiscard]] pid_t pid() const noexcept { return pid_; }

    /// The wait status of its end.
    int wait() {
        int status = 0;
        if (waitpid(pid_, &status, 0) != pid_) throw std::system_error(errno, std::generic_category(), "waitpid");
        pid_ = 0;
        return status;
    }
    /// The wait status of its next stop.
    [[nodiscard]] int wait_stopped() const {
        int status = 0;
        if (waitpid(pid_, &status, WUNTRACED) != pid_)
            throw std::system_error(errno, std::generic_category(), "waitpid");
        return status;
    }

private:
    pid_t pid_;
};

/// A folder that is removed with what it holds.
class TemporaryFolder {
public:
    TemporaryFolder() {
        if (mkdtemp(path_.data()) == nullptr) throw std::system_error(errno, std::generic_category(), "mkdtemp");
    }
    ~TemporaryFolder() {
        for (const auto& name : names_)
            unlink((path_ + "/" + name).c_str());
        rmdir(path_.c_str());
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    /// The path of a file in it, made or not.
    std::string file(const std::string& name) {
        names_.insert(name);
        return path_ + "/" + name;
    }
    /// Writes the file whole.
    std::string file(const std::string& name, const std::string& content, mode_t mode = 0600) {
        const auto path = file(name);
        const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
        if (fd < 0 || write(fd, content.data(), content.size()) != static_cast<ssize_t>(content.size()) ||
            fchmod(fd, mode) != 0 || close(fd) != 0) {
            throw std::system_error(errno, std::generic_category(), path);
        }
        return path;
    }

private:
    std::string path_ = "/tmp/tidemark-test-XXXXXX";
    std::set<std::string> names_;
};

}  // namespace tidemark::test
