// Echo and relay on uWebSockets, with its own publish and subscribe. One app on one thread: a topic is local to a
// thread, and the documentation leaves the rest to the application.

#include "App.h"

#include <sys/resource.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>

namespace {

// Limit of the pending bytes of a client, which is then disconnected. The default of 64 KiB would drop messages.
constexpr unsigned int MAX_BACKPRESSURE = 16 * 1024 * 1024;
constexpr unsigned int MAX_PAYLOAD = 16 * 1024 * 1024;

struct Client {
    std::string room;
};

struct Arguments {
    std::string host = "127.0.0.1";
    int port = 8000;
    bool echo = false;
};

[[noreturn]] void refuse(std::string_view what) {
    std::cerr << what << "; usage: --listen ADDR:PORT --app echo|relay --workers 1" << std::endl;
    std::exit(2);
}

Arguments parse(int count, char **words) {
    Arguments arguments;
    for (int at = 1; at + 1 < count; at += 2) {
        std::string_view name = words[at];
        std::string value = words[at + 1];
        if (name == "--listen") {
            auto colon = value.rfind(':');
            if (colon == std::string::npos) {
                refuse("--listen " + value + " has no port");
            }
            arguments.host = value.substr(0, colon);
            arguments.port = std::atoi(value.c_str() + colon + 1);
        } else if (name == "--app" && (value == "echo" || value == "relay")) {
            arguments.echo = value == "echo";
        } else if (name != "--workers" || value != "1") {
            refuse(std::string(name) + " " + value + " makes no sense");
        }
    }
    return arguments;
}

void raise_descriptor_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

}  // namespace

int main(int count, char **words) {
    Arguments arguments = parse(count, words);
    raise_descriptor_limit();
    uWS::App app;

    uWS::App::WebSocketBehavior<Client> behavior;
    behavior.compression = uWS::DISABLED;
    behavior.maxPayloadLength = MAX_PAYLOAD;
    behavior.maxBackpressure = MAX_BACKPRESSURE;
    behavior.closeOnBackpressureLimit = true;
    if (arguments.echo) {
        behavior.message = [](auto *socket, std::string_view message, uWS::OpCode opcode) {
            socket->send(message, opcode, false);
        };
    } else {
        behavior.upgrade = [](auto *response, auto *request, auto *context) {
            response->template upgrade<Client>({.room = std::string(request->getUrl())},
                                               request->getHeader("sec-websocket-key"),
                                               request->getHeader("sec-websocket-protocol"),
                                               request->getHeader("sec-websocket-extensions"), context);
        };
        behavior.open = [](auto *socket) { socket->subscribe(socket->getUserData()->room); };
        // The app publishes to all subscribers. A socket would leave itself out.
        behavior.message = [&app](auto *socket, std::string_view message, uWS::OpCode opcode) {
            app.publish(socket->getUserData()->room, message, opcode, false);
        };
    }
    app.ws<Client>("/*", std::move(behavior)).listen(arguments.host, arguments.port, [&](auto *listener) {
        if (!listener) {
            refuse("cannot listen on " + arguments.host + ":" + std::to_string(arguments.port));
        }
        std::cout << "listening on " << arguments.host << ":" << arguments.port << std::endl;
    });
    app.run();
}
