// POST /increment as it is usually written: Express in front of Redis' INCRBY, which answers before anything is on a disk.
// Settings: PORT, REDIS_PORT, and AUTO_PIPELINING=1 to send what one turn of the event loop brings in one write.
"use strict";

const express = require("express");
const Redis = require("ioredis");

const redis = new Redis({
  host: "127.0.0.1",
  port: Number(process.env.REDIS_PORT),
  enableAutoPipelining: process.env.AUTO_PIPELINING === "1",
});

const app = express();
app.disable("x-powered-by");
app.use(express.json());

app.post("/increment", async (request, response) => {
  const { key, value } = request.body;
  if (typeof key !== "string" || key === "" || !Number.isSafeInteger(value)) {
    return response.status(400).json({ error: "key must be a non-empty string and value an integer" });
  }
  try {
    await redis.incrby(key, value);
    return response.status(202).end();
  } catch {
    return response.status(503).json({ error: "storage is down" });
  }
});

app.get("/readyz", (request, response) => {
  response.status(redis.status === "ready" ? 200 : 503).end();
});

app.listen(Number(process.env.PORT), "127.0.0.1");

process.on("SIGTERM", () => process.exit(0));
