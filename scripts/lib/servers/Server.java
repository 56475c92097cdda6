// SPDX-License-Identifier: GPL-2.0

import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;

/** Server PORT: an HTTP server with one selector, which is an epoll instance. */
public final class Server {
    private static final ByteBuffer ANSWER = ByteBuffer.wrap(
            "HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n".getBytes());

    public static void main(String[] arguments) throws Exception {
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])));
        listener.configureBlocking(false);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel client = listener.accept();
                    if (client == null) {
                        continue;
                    }
                    client.configureBlocking(false);
                    client.register(selector, SelectionKey.OP_READ);
                } else {
                    SocketChannel client = (SocketChannel) key.channel();
                    client.read(ByteBuffer.allocate(4096));
                    client.write(ANSWER.duplicate());
                    client.close();
                }
            }
            selector.selectedKeys().clear();
        }
    }
}
