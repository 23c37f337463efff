/** Loads one path with 16 keep-alive connections for three seconds, raw sockets to stay cheap; prints requests per second. */
import { connect } from 'node:net';

const [port = '0', path = '/', token = ''] = process.argv.slice(2);
const request = `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer ${token}\r\n\r\n`;
const seconds = 3;
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
    const head = rest.indexOf('\r\n\r\n');
    if (head < 0) return;
    const length = Number(/content-length: (\d+)/i.exec(rest.slice(0, head))?.[1] ?? 0);
    if (rest.length < head + 4 + length) return;
    if (!rest.startsWith('HTTP/1.1 200')) wrong++;
    rest = rest.slice(head + 4 + length);
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
