// Drives semanticd from docs/formats/control-protocol.md alone: node control-client.mjs SOCKET status | swap MODEL | tokens
import net from "node:net";
import { pack, unpack } from "./msgpack.mjs";
const [path, action, argument] = process.argv.slice(2);
const socket = net.connect(path).on("error", (error) => { console.error(error.message); process.exit(3); });
const waiting = new Map();
let buffer = Buffer.alloc(0), nextId = 1;
const call = (cmd, args = {}) => new Promise((resolve, reject) => {
  const payload = pack({ v: 1, id: nextId, cmd, args }), length = Buffer.alloc(4);
  length.writeUInt32BE(payload.length);
  waiting.set(nextId++, (reply) => (reply.ok ? resolve(reply.result) : reject(new Error(reply.error.message))));
  socket.write(Buffer.concat([length, payload]));
});
socket.on("data", (data) => {
  buffer = Buffer.concat([buffer, data]);
  while (buffer.length >= 4 && buffer.length >= 4 + buffer.readUInt32BE(0)) {
    const message = unpack(buffer.subarray(4, 4 + buffer.readUInt32BE(0)));
    buffer = buffer.subarray(4 + buffer.readUInt32BE(0));
    if (message.event === "token") process.stdout.write(message.data.text);
    else waiting.get(message.id)?.(message);
  }
});
await call("hello", { client: "control-client.mjs", protocol: 1 });
if (action === "tokens") await call("subscribe", { topics: ["tokens"] }); // runs until Ctrl-C
else {
  console.log(JSON.stringify(await (action === "swap" ? call("models.swap", { model: argument }) : call("status"))));
  socket.end();
}
