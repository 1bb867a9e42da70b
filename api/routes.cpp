#include "api/routes.h"

#include "api/audit.h"
#include "api/counters.h"
#include "api/dead_letters.h"
#include "api/events.h"
#include "api/generations.h"
#include "api/pages.h"
#include "api/problem.h"
#include "api/vehicles.h"
#include "infra/http/operations.h"

namespace tidemark::api {

http::Router make_routes(const Services& services) {
    http::Router router;
    add_counters(router, services.writer, services.reads);
    add_vehicles(router, services.writer, services.reads, services.cache);
    add_dead_letters(router, services.writer, services.reads);
    add_events(router, services.reads);
    add_generations(router, services.reads);
    add_audit(router, services.reads);
    add_health(router, services.health);
    // An unknown parameter is refused here as on every other route.
    http::Router operations;
    http::add_operations(operations, services.metrics, [health = services.health] { return not_ready_because(health); },
                         {.refresh = services.refresh_metrics, .problem = not_ready_problem});
    for (const auto& route : operations.routes())
        add_plain(router, route.path, route.handler);
    add_pages(router);
    return router;
}

}  // namespace tidemark::api
