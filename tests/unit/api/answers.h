#pragma once

#include "infra/http/message.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tidemark::tests {

/// Keeps what a Reply sent, as a session would put it on the wire.
class Answers final : public http::Reply::Target {
public:
    bool complete(std::uint64_t, int given_status, std::string_view type, std::string_view header_lines,
                  std::string_view text) noexcept override {
        status = given_status;
        content_type = type;
        lines = header_lines;
        body = text;
        ++count;
        return true;
    }
    void extend(std::uint64_t, std::uint32_t) noexcept override {}

    int count = 0;
    int status = -1;
    std::string content_type;
    std::string lines;
    std::string body;
};

/// A request as the server would hand it over, whose texts live here.
struct Asked {
    explicit Asked(http::Method method, std::string target_text,
                   std::vector<std::pair<std::string, std::string>> header = {}, std::string body_text = {})
        : target(std::move(target_text)), names_and_values(std::move(header)), body(std::move(body_text)) {
        request.method = method;
        request.target = target;
        const auto question = std::string_view(target).find('?');
        request.path = std::string_view(target).substr(0, question);
        if (question != std::string::npos) request.query = std::string_view(target).substr(question + 1);
        for (const auto& [name, value] : names_and_values)
            fields.push_back({name, value});
        request.fields = fields;
        request.body = body;
    }
    Asked(const Asked&) = delete;
    Asked& operator=(const Asked&) = delete;

    std::string target;
    std::vector<std::pair<std::string, std::string>> names_and_values;
    std::string body;
    std::vector<http::Field> fields;
    http::Request request;
};

}  // namespace tidemark::tests
