# Floors that the ratios of the Kafka side are taken against; included by CMakeLists.txt, built on request.

tidemark_bench(producer-floor producer_floor.cpp tidemark_producing CLI11::CLI11 PkgConfig::RDKAFKA)
tidemark_bench(consumer-floor consumer_floor.cpp tidemark_kafka CLI11::CLI11 PkgConfig::RDKAFKA)
