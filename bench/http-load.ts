/** Loads one path with 16 keep-alive connections for some seconds, raw sockets to stay cheap; prints requests per second. */
import { connect } from 'node:net';

const [port = '0', path = '/', headersText = '{}', secondsText = '3'] = process.argv.slice(2);
const headers: Record<string, string> = JSON.parse(headersText);
const head = Object.entries({ Host: '127.0.0.1', ...headers }).map(([name, value]) => `${name}: ${value}`);
const request = [`GET ${path} HTTP/1.1`, ...head, '', ''].join('\r\n');
const seconds = Number(secondsText);
let done = 0;
let wrong = 0;
let counting = false;

for (let i = 0; i < 16; i++) {
  const socket = connect({ host: '127.0.0.1', port: Number(port) });
  let rest = '';
  socket.setEncoding('latin1');
  socket.on('connect', () => socket.write(request));
  socket.on('data', (text: string) => {
    rest += text;
    const end = rest.indexOf('\r\n\r\n');
    if (end < 0) return;
    const length = Number(/content-length: (\d+)/i.exec(rest.slice(0, end))?.[1] ?? 0);
    if (rest.length < end + 4 + length) return;
    if (!rest.startsWith('HTTP/1.1 200')) wrong++;
    rest = rest.slice(end + 4 + length);
    if (counting) done++;
    socket.write(request);
  });
}
setTimeout(() => {
  counting = true;
  setTimeout(() => {
    process.stdout.write(wrong > 0 ? 'NaN' : String(done / seconds));
    process.exit(0);
  }, seconds * 1000);
}, 1000);
