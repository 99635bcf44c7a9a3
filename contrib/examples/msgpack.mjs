// As much msgpack as the control protocol needs: null, booleans, numbers, text, bytes, arrays, maps.

export function pack(value) {
  const sized = (length, fix, fixMax, code) => length <= fixMax ? Buffer.from([fix | length]) : header(code, length);
  const header = (code, length) => { const b = Buffer.alloc(5); b[0] = code; b.writeUInt32BE(length, 1); return b; };
  if (value === null || value === undefined) return Buffer.from([0xc0]);
  if (typeof value === "boolean") return Buffer.from([value ? 0xc3 : 0xc2]);
  if (typeof value === "number") {
    if (Number.isInteger(value) && value >= 0 && value < 128) return Buffer.from([value]);
    const b = Buffer.alloc(9);
    if (Number.isSafeInteger(value)) { b[0] = 0xd3; b.writeBigInt64BE(BigInt(value), 1); }
    else { b[0] = 0xcb; b.writeDoubleBE(value, 1); }
    return b;
  }
  if (typeof value === "string") {
    const text = Buffer.from(value);
    return Buffer.concat([sized(text.length, 0xa0, 31, 0xdb), text]);
  }
  if (Array.isArray(value)) return Buffer.concat([sized(value.length, 0x90, 15, 0xdd), ...value.map(pack)]);
  const entries = Object.entries(value);
  return Buffer.concat([sized(entries.length, 0x80, 15, 0xdf), ...entries.flatMap(([k, v]) => [pack(k), pack(v)])]);
}

export function unpack(buffer) {
  let at = 0;
  const take = (n) => buffer.subarray(at, (at += n));
  const uint = (n) => n === 8 ? Number(take(8).readBigUInt64BE()) : take(n).readUIntBE(0, n);
  const int = (n) => n === 8 ? Number(take(8).readBigInt64BE()) : take(n).readIntBE(0, n);
  const text = (n) => take(n).toString("utf8");
  const array = (n) => Array.from({ length: n }, next);
  const map = (n) => Object.fromEntries(Array.from({ length: n }, () => [next(), next()]));
  const readers = {
    0xc0: () => null, 0xc2: () => false, 0xc3: () => true,
    0xc4: () => take(uint(1)), 0xc5: () => take(uint(2)), 0xc6: () => take(uint(4)),
    0xca: () => take(4).readFloatBE(), 0xcb: () => take(8).readDoubleBE(),
    0xcc: () => uint(1), 0xcd: () => uint(2), 0xce: () => uint(4), 0xcf: () => uint(8),
    0xd0: () => int(1), 0xd1: () => int(2), 0xd2: () => int(4), 0xd3: () => int(8),
    0xd9: () => text(uint(1)), 0xda: () => text(uint(2)), 0xdb: () => text(uint(4)),
    0xdc: () => array(uint(2)), 0xdd: () => array(uint(4)), 0xde: () => map(uint(2)), 0xdf: () => map(uint(4)),
  };
  function next() {
    const code = take(1)[0];
    if (code < 0x80) return code;
    if (code < 0x90) return map(code & 0x0f);
    if (code < 0xa0) return array(code & 0x0f);
    if (code < 0xc0) return text(code & 0x1f);
    if (code >= 0xe0) return code - 256;
    if (!readers[code]) throw new Error(`msgpack type 0x${code.toString(16)} is not used by this protocol`);
    return readers[code]();
  }
  return next();
}
