// Receives fired jobs: verifies the signature and the fence. See README.md.

const crypto = require("node:crypto");
const http = require("node:http");

const KEY = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ""), "base64");
const TOLERANCE_S = 300;

const fences = new Map(); // The greatest fence of each job.

function isSigned(headers, body) {
  const timestamp = headers["webhook-timestamp"] ?? "";
  if (!/^\d+$/.test(timestamp)) return false;
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_S) return false;
  const mac = crypto.createHmac("sha256", KEY);
  mac.update(`${headers["webhook-id"]}.${timestamp}.`).update(body);
  const expected = Buffer.from(`v1,${mac.digest("base64")}`);
  // One of several, while a secret is replaced.
  return (headers["webhook-signature"] ?? "").split(" ").some((text) => {
    const given = Buffer.from(text);
    return given.length === expected.length && crypto.timingSafeEqual(given, expected);
  });
}

function isLate(job, fence) {
  if (fence < (fences.get(job) ?? 0)) return true;
  fences.set(job, fence);
  return false;
}

function statusOf(headers, body) {
  if (!isSigned(headers, body)) return 401;
  const fence = Number(headers["x-scheduler-fence"]); // Below 2^53.
  if (isLate(headers["x-scheduler-job-id"], fence)) return 412;
  console.log("done", headers["x-scheduler-request-id"], fence);
  return 204;
}

const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    response.writeHead(statusOf(request.headers, Buffer.concat(parts)), { "content-length": 0 });
    response.end();
  });
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => {
  console.log("listening on", server.address().port);
});
