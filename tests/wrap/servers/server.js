// A server of files that takes uploads, on node's own http module.
const [port, folder] = process.argv.slice(2);
const { createHash } = require("crypto");
const { createReadStream } = require("fs");
require("http").createServer((request, response) => {
  if (request.method === "GET") {
    createReadStream(folder + request.url).pipe(response);
    return;
  }
  const digest = createHash("sha256");
  request.on("data", (data) => digest.update(data));
  request.on("end", () => response.end(digest.digest("hex")));
}).listen(port, "127.0.0.1");
